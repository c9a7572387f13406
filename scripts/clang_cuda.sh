#!/bin/sh
# clang_cuda.sh - lays out build/cuda12/toolkit: as much of a CUDA 12.9 toolkit as clang needs to
# compile kernels and launchers for sm_70, from the wheels of cuda12.txt and a newer nvcc's
# fatbinary. Prints the folder; fails where clang-19 or nvcc is missing.
set -eu
cd "$(dirname "$0")/.."
command -v clang++-19 >/dev/null || { echo "clang_cuda: no clang++-19 (apt: clang-19)" >&2; exit 1; }
nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
fatbinary=$(dirname "$(readlink -f "$nvcc")")/fatbinary
[ -x "$fatbinary" ] || { echo "clang_cuda: no fatbinary beside nvcc" >&2; exit 1; }
python3 -c 'import sys; sys.path.insert(0, "scripts"); import nvrtc; nvrtc.install()' >&2

wheels=$PWD/build/cuda12/nvidia
toolkit=$PWD/build/cuda12/toolkit
rm -rf "$toolkit"
mkdir -p "$toolkit/bin" "$toolkit/lib64" "$toolkit/include"
cp -rs "$wheels/cuda_nvcc/include/." "$wheels/cuda_runtime/include/." "$toolkit/include/"
cp -s "$wheels"/cuda_runtime/lib/* "$toolkit/lib64/"
ln -s "$wheels/cuda_nvcc/nvvm" "$toolkit/nvvm"
ln -s "$wheels/cuda_nvcc/bin/ptxas" "$toolkit/bin/ptxas"
# clang 19 speaks to fatbinary as CUDA 12 did: --image=profile=sm_70,file=F
cat >"$toolkit/bin/fatbinary" <<SH
#!/bin/bash
arguments=()
for a in "\$@"; do
    case \$a in
    --image=profile=sm_*) a=\${a#--image=profile=sm_}; a="--image3=kind=elf,sm=\$a" ;;
    --image=profile=compute_*) a=\${a#--image=profile=compute_}; a="--image3=kind=ptx,sm=\$a" ;;
    esac
    arguments+=("\$a")
done
exec "$fatbinary" "\${arguments[@]}"
SH
# CMake asks a toolkit's nvcc where it lies and which version it is, nothing else.
cat >"$toolkit/bin/nvcc" <<SH
#!/bin/sh
echo '#\$ TOP=$toolkit' >&2
echo "Cuda compilation tools, release 12.9, V12.9.86"
SH
chmod +x "$toolkit/bin/fatbinary" "$toolkit/bin/nvcc"
echo "$toolkit"
