"""4-bit weights beside what else multiplies by them on a CPU: bitsandbytes' NF4, llama.cpp's Q4_0, torch.

    python bench/peers/q4_matmul.py MATMUL_BENCH OUT.md [THREADS] [REPETITIONS]
        (needs torch, bitsandbytes 0.50 and, for Q4_0, llama-cpp-python; OMP_NUM_THREADS=THREADS)

Shapes of the 11B, weights of COUNT different matrices so that no cache helps, all in turn in one
process each, REPETITIONS times; median. Decode: GB/s of weight bytes (codes and scales) and the
memory's read rate in the same round. Prefill: GFLOP/s. bitsandbytes runs its packed BF16 kernel,
llama.cpp, which pip builds for this machine, its repacked Q4_0 by int8 dot products of quantised
activations, as our int8 dot does. One thread is measured by its CPU time, so that a busy machine
disturbs it less.
"""
import ctypes
import pathlib
import statistics
import subprocess
import sys
import time

import torch

from peer_tools import table

clock = time.perf_counter
SHAPES = [(4096, 4096), (14336, 4096), (4096, 14336)]
COUNT = 6
OURS = {"nf4": ("nf4", "f32"), "nf4-dq": ("nf4-dq", "f32"), "nf4, bf16 dot": ("nf4", "bf16"),
        "nf4, int8 dot": ("nf4", "int8"), "nf4-dq, int8 dot": ("nf4-dq", "int8"), "int8": ("int8", "f32")}
DQ = 4 + 8 / 64 + 32 / 16384
# bits a weight, codes and scales; bitsandbytes packs the scales as bf16
BITS = {"nf4": 4.5, "nf4-dq": DQ, "nf4, bf16 dot": 4.5, "nf4, int8 dot": 4.5, "nf4-dq, int8 dot": DQ, "int8": 8,
        "bitsandbytes, bf16": 4.25, "Q4_0, int8 dot": 4.5}


class Ours:
    def __init__(self, path, threads):
        command = [path, str(threads)] + ["--cpu-time"] * (threads == 1)
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return [float(v) for v in self.process.stdout.readline().split()]

    def time(self, kind, n, rows, cols):
        weights, compute = kind
        return self.ask(f"coded {weights} {compute} {n} {rows} {cols} {COUNT}")[0]


class Bitsandbytes:
    """Linear4bit on a CPU with the BF16 dot instruction: weights packed once, bf16 activations."""

    def __init__(self):
        import bitsandbytes.functional as functional
        self.f, self.made = functional, {}

    def weights(self, rows, cols):
        if (rows, cols) not in self.made:
            self.made = {(rows, cols): [self.pack(rows, cols) for _ in range(COUNT)]}
        return self.made[rows, cols]

    def pack(self, rows, cols):
        _, state = self.f.quantize_4bit(torch.randn(64, cols), quant_type="nf4")
        q = torch.randint(0, 256, (rows * cols // 2, 1), dtype=torch.uint8)
        state.shape, state.absmax = torch.Size((rows, cols)), torch.rand(rows * cols // 64)
        return self.f._convert_weight_packed_for_cpu(q, state)

    def time(self, n, rows, cols):
        weights, x = self.weights(rows, cols), torch.randn(n, cols, dtype=torch.bfloat16)
        start = clock()
        for q, state in weights:
            self.f.gemv_4bit(x, q, state=state)
        return clock() - start


class InitParams(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]


class LlamaCpp:
    """ggml from llama-cpp-python's libraries: one graph of COUNT products by Q4_0 matrices, repacked."""

    def __init__(self, threads):
        import llama_cpp
        folder = pathlib.Path(llama_cpp.__file__).parent / "lib"
        self.silence = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self.silence, None)
        self.lib = ctypes.CDLL(str(folder / "libggml-cpu.so"))  # brings libggml-base.so along
        for name, result, args in [
                ("ggml_init", "p", [InitParams]), ("ggml_new_tensor_2d", "p", "pill"), ("ggml_mul_mat", "p", "ppp"),
                ("ggml_new_graph", "p", "p"), ("ggml_build_forward_expand", None, "pp"), ("ggml_nbytes", "l", "p"),
                ("ggml_backend_cpu_init", "p", ""), ("ggml_backend_cpu_set_n_threads", None, "pi"),
                ("ggml_backend_graph_compute", "i", "pp"), ("ggml_backend_cpu_buffer_type", "p", ""),
                ("ggml_backend_alloc_ctx_tensors_from_buft", "p", "pp"), ("ggml_free", None, "p"),
                ("ggml_backend_tensor_set", None, "ppll"), ("ggml_backend_buffer_free", None, "p"),
                ("_Z35ggml_backend_cpu_repack_buffer_typev", "p", "")]:
            kinds = {"p": ctypes.c_void_p, "i": ctypes.c_int, "l": ctypes.c_int64}
            f = getattr(self.lib, name)
            f.restype = kinds.get(result)
            f.argtypes = args if isinstance(args, list) else [kinds[a] for a in args]
        self.backend = self.lib.ggml_backend_cpu_init()
        self.lib.ggml_backend_cpu_set_n_threads(self.backend, threads)
        self.shape, self.owned = None, []

    def context(self):
        return self.lib.ggml_init(InitParams(1 << 20, None, True))

    def matrices(self, rows, cols):
        if self.shape == (rows, cols):
            return
        for context, buffer in self.owned:
            self.lib.ggml_backend_buffer_free(buffer)
            self.lib.ggml_free(context)
        context = self.context()
        self.w = [self.lib.ggml_new_tensor_2d(context, 2, cols, rows) for _ in range(COUNT)]
        buffer = self.lib.ggml_backend_alloc_ctx_tensors_from_buft(
            context, self.lib._Z35ggml_backend_cpu_repack_buffer_typev())
        self.owned, self.shape = [(context, buffer)], (rows, cols)
        for w in self.w:
            size = self.lib.ggml_nbytes(w)
            blocks = torch.randint(0, 256, (size // 18, 18), dtype=torch.uint8)
            blocks[:, :2] = torch.tensor([0, 0x20], dtype=torch.uint8)  # the scale, fp16 2^-7
            self.lib.ggml_backend_tensor_set(w, blocks.data_ptr(), 0, size)

    def time(self, n, rows, cols):
        self.matrices(rows, cols)
        context = self.context()
        x = self.lib.ggml_new_tensor_2d(context, 0, cols, n)
        graph = self.lib.ggml_new_graph(context)
        for w in self.w:
            self.lib.ggml_build_forward_expand(graph, self.lib.ggml_mul_mat(context, w, x))
        buffer = self.lib.ggml_backend_alloc_ctx_tensors_from_buft(context, self.lib.ggml_backend_cpu_buffer_type())
        data = torch.randn(n, cols)
        self.lib.ggml_backend_tensor_set(x, data.data_ptr(), 0, data.numel() * 4)
        start = clock()
        self.lib.ggml_backend_graph_compute(self.backend, graph)
        seconds = clock() - start
        self.lib.ggml_backend_buffer_free(buffer)
        self.lib.ggml_free(context)
        return seconds


def torch_time(dtype, n, rows, cols):
    x, w = torch.randn(n, cols, dtype=dtype), torch.randn(rows, cols, dtype=dtype)
    start = clock()
    for _ in range(COUNT):
        torch.nn.functional.linear(x, w)
    return clock() - start


def products(ours, bnb, llama, n, rows, cols):
    """What multiplies n rows of x: a function of no arguments for each name of BITS that is there."""
    rounds = {name: lambda kind=kind: ours.time(kind, n, rows, cols) for name, kind in OURS.items()}
    rounds["bitsandbytes, bf16"] = lambda: bnb.time(n, rows, cols)
    if llama:
        rounds["Q4_0, int8 dot"] = lambda: llama.time(n, rows, cols)
    return rounds


def measure(rounds, repetitions):
    """Medians of every entry, the entries run in turn."""
    seen = {name: [] for name in rounds}
    for name in rounds:
        rounds[name]()
    for _ in range(repetitions):
        for name, f in rounds.items():
            seen[name].append(f())
    return {name: statistics.median(v) for name, v in seen.items()}


def main():
    path, out = sys.argv[1], pathlib.Path(sys.argv[2])
    threads = int(sys.argv[3]) if len(sys.argv) > 3 else 2
    repetitions = int(sys.argv[4]) if len(sys.argv) > 4 else 9
    if threads == 1:
        global clock
        clock = time.thread_time
    torch.set_num_threads(threads)
    ours, bnb = Ours(path, threads), Bitsandbytes()
    try:
        llama = LlamaCpp(threads)
    except (ImportError, OSError, AttributeError) as error:
        print("no Q4_0:", error, file=sys.stderr)
        llama = None
    lines = [f"{threads} thread{'s' if threads > 1 else ''}, torch {torch.__version__}, median of {repetitions} "
             f"rounds of {COUNT} matrices.", "", "Decode, one row: GB/s of weight bytes.", ""]
    decode, prefill = [], []
    for rows, cols in SHAPES:
        rounds = {"read": lambda: ours.ask("read")[0]} | products(ours, bnb, llama, 1, rows, cols)
        m = measure(rounds, repetitions)
        rate = {name: COUNT * rows * cols * bits / 8e9 / m[name] if name in m else 0 for name, bits in BITS.items()}
        shares = [rate[name] / m["read"] for name in ("nf4", "nf4, int8 dot")]
        decode.append([f"{rows} x {cols}", *(f"{v:.1f}" for v in [m["read"], *rate.values()]),
                       *(f"{v:.2f}" for v in shares)])
        print(decode[-1], flush=True)
    torches = {"torch f32": torch.float32, "torch bf16": torch.bfloat16}
    names = [name for name in BITS if name != "int8"]
    for n in (128, 512):
        rows, cols = SHAPES[0]
        rounds = products(ours, bnb, llama, n, rows, cols)
        rounds |= {name: lambda t=t: torch_time(t, n, rows, cols) for name, t in torches.items()}
        m = measure(rounds, max(3, repetitions // 3))
        flops = [2e-9 * COUNT * n * rows * cols / m[name] if name in m else 0 for name in [*names, *torches]]
        prefill.append([str(n), f"{rows} x {cols}", *(f"{v:.0f}" for v in flops)])
        print(prefill[-1], flush=True)
    lines += table(["out x in", "memory read", *BITS, "nf4 of read", "nf4, int8 dot of read"], decode, 1)
    lines += ["", "Prefill: GFLOP/s.", ""] + table(["rows", "out x in", *names, *torches], prefill)
    out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
