#!/usr/bin/env python3
"""NVRTC 12.9, the CUDA compiler as a library: compiles every kernel for one architecture.

    nvrtc.py [--oldest] ARCH...     compile kernels/*.cu for sm_ARCH; warnings and spills are errors

The wheels named in cuda12.txt go into build/cuda12 on first use, with the disassembler of triton's
wheel, the last that reads sm_70. `make sm70` is `nvrtc.py 70`: what a V100 needs, checked on
machines whose nvcc is too new for it. --oldest takes NVRTC 11.8, the lower bound, from the wheels of
cuda11.txt in build/cuda11. MLL_NVRTC=DIR takes other wheels, unpacked there.
"""

import ctypes
import glob
import os
import re
import subprocess
import sys
import zipfile
from concurrent.futures import ProcessPoolExecutor

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DISASSEMBLER = os.path.join(ROOT, "build", "cuda12", "nvdisasm")
OPTIONS = ["--std=c++17", "--ptxas-options=-v", "--ptxas-options=-warn-spills",
           "--ptxas-options=-Werror"]


def wheels():
    return os.environ.get("MLL_NVRTC") or os.path.join(ROOT, "build", "cuda12")


def pip(*args):
    command = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", *args]
    if subprocess.run(command, stderr=subprocess.PIPE).returncode != 0:
        sys.exit("nvrtc: pip could not fetch the compiler (network, or python3-pip missing): "
                 + " ".join(command))


def install_oldest():
    """The wheels of cuda11.txt; from here on they are the compiler."""
    folder = os.path.join(ROOT, "build", "cuda11")
    if not os.path.exists(os.path.join(folder, "nvidia", "cuda_nvrtc")):
        pip("install", "--no-deps", "--target", folder, "--root-user-action=ignore",
            "-r", os.path.join(ROOT, "scripts", "cuda11.txt"))
    os.environ["MLL_NVRTC"] = folder  # for the processes that compile


def install():
    """The wheels of cuda12.txt and nvdisasm, unless they are there."""
    if os.environ.get("MLL_NVRTC") or os.path.exists(DISASSEMBLER):
        return
    print("nvrtc: fetching NVRTC 12.9 and nvdisasm into build/cuda12 (340 MB, once)", flush=True)
    pip("install", "--no-deps", "--upgrade", "--target", wheels(), "--root-user-action=ignore",
        "-r", os.path.join(ROOT, "scripts", "cuda12.txt"))
    pip("download", "--no-deps", "--only-binary=:all:", "--python-version", "3.11",
        "--platform", "manylinux_2_17_x86_64", "-d", wheels(), "triton==3.1.0")
    wheel = glob.glob(os.path.join(wheels(), "triton-*.whl"))[0]
    with zipfile.ZipFile(wheel) as z, open(DISASSEMBLER + ".part", "wb") as f:
        f.write(z.read("triton/backends/nvidia/bin/nvdisasm"))
    os.remove(wheel)
    os.chmod(DISASSEMBLER + ".part", 0o755)
    os.rename(DISASSEMBLER + ".part", DISASSEMBLER)


def sources():
    """The kernels, as kernels/CMakeLists.txt lists them."""
    with open(os.path.join(ROOT, "kernels", "CMakeLists.txt")) as f:
        return sorted(set(re.findall(r"\b[a-z0-9_]+\.cu\b", f.read())))


def instances(text):
    """Template kernels as the launchers of a source name them; NVRTC does not see the launchers. A
    type parameter that a launcher passes on stands for every type a weight may have; for a number
    that it passes on, the source must instantiate the kernel itself."""
    types = set(re.findall(r"\b(?:typename|class)\s+(\w+)", text))
    numbers = set(re.findall(r"[<,]\s*(?:int|bool|unsigned)\s+(\w+)\s*(?=[,>=])", text))
    found = set()
    for launch in re.finditer(r"\bLAUNCH(?:_EARLY\s*\([^,]*,|\s*\()\s*\(?\s*(\w+)\s*<([^<>;]*)>", text):
        kernel, arguments = launch.group(1), " ".join(launch.group(2).split())
        if numbers & set(re.findall(r"\w+", arguments)):
            continue
        for t in ("float", "__half", "bf16"):
            types_named = re.sub(r"\b(%s)\b" % "|".join(types or "#"), t, arguments)
            found.add(f"{kernel}<{types_named}>")
    return sorted(found)


class Compiled:
    """One source for one architecture: ok, the compiler's log, the binary, the PTX."""

    def __init__(self, source, arch, ok, log, cubin, ptx):
        self.source, self.arch, self.ok = source, arch, ok
        self.log, self.cubin, self.ptx = log, cubin, ptx


def load_library():
    found = sorted(glob.glob(os.path.join(wheels(), "nvidia", "cuda_nvrtc", "lib", "libnvrtc.so*")))
    if not found:
        sys.exit("nvrtc: no libnvrtc under " + wheels())
    return ctypes.CDLL(found[0])


def compile_source(job):
    """Compiles kernels/SOURCE for sm_ARCH, given (source, arch)."""
    source, arch = job
    lib, program = load_library(), ctypes.c_void_p()
    path = os.path.join(ROOT, "kernels", source)
    with open(path) as f:
        text = f.read()
    options = OPTIONS + [f"--gpu-architecture=sm_{arch}", "-I" + os.path.join(ROOT, "kernels")]
    for wheel in ("cuda_runtime", "cuda_nvcc"):
        options.append("-I" + os.path.join(wheels(), "nvidia", wheel, "include"))
    arguments = (ctypes.c_char_p * len(options))(*[o.encode() for o in options])
    if lib.nvrtcCreateProgram(ctypes.byref(program), text.encode(), source.encode(), 0, None, None):
        raise RuntimeError("nvrtcCreateProgram failed")
    for instance in instances(text):
        lib.nvrtcAddNameExpression(program, instance.encode())
    ok = lib.nvrtcCompileProgram(program, len(options), arguments) == 0

    def read(what):
        size = ctypes.c_size_t()
        if getattr(lib, f"nvrtcGet{what}Size")(program, ctypes.byref(size)) or not size.value:
            return b""
        data = ctypes.create_string_buffer(size.value)
        getattr(lib, f"nvrtcGet{what}")(program, data)
        return data.raw
    log = read("ProgramLog").replace(b"\0", b"").decode()
    log = "\n".join(l for l in log.splitlines() if "are deprecated and may be removed" not in l)
    if not ok:
        return Compiled(source, arch, False, log, b"", "")
    ptx = read("PTX").rstrip(b"\0").decode()
    missing = [k for k in kernels_of(text) if not re.search(rf"\.entry \w*{k}", ptx)]
    if missing:
        log += "\nno instance of a template kernel that NVRTC can see: " + ", ".join(missing)
    return Compiled(source, arch, not missing, log, read("CUBIN"), ptx)


def kernels_of(text):
    """Names of the __global__ functions a source defines."""
    return re.findall(r"__global__\s+void\s+(?:__launch_bounds__\((?:[^()]|\([^()]*\))*\)\s*)?"
                      r"(\w+)\s*\([^;]*?\)\s*\{", text)


def on_all_cores(function, jobs):
    """The results of function(job) for every job, in order."""
    with ProcessPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(function, jobs))


def main(archs):
    if archs[:1] == ["--oldest"]:
        archs = archs[1:]
        install_oldest()
    install()
    passed = failed = 0
    for c in on_all_cores(compile_source, [(s, a) for a in archs or ["70"] for s in sources()]):
        if c.ok:
            passed += 1
            continue
        failed += 1
        lines = [l for l in c.log.splitlines() if not l.startswith("ptxas info")]
        print(f"{c.source} for sm_{c.arch}:", *lines[:20], sep="\n    ")
    print(f"{passed} passed, {failed} failed")
    return failed != 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
