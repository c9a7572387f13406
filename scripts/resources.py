#!/usr/bin/env python3
"""What every kernel takes of an SM, per architecture, as NVRTC 12.9 compiles it.

    resources.py            rewrite bench/results/resources.md
    resources.py --check    fail where a kernel is worse than that table says, or is not in it

Worse: spilled registers, fewer warps on an SM, or more registers than before (more than two and
than a twentieth). Occupancy follows from registers, shared memory and block size by the rules of
the CUDA programming guide (table "technical specifications per compute capability") and of the
occupancy calculator; the block size is the kernel's launch bound, dynamic shared memory what its
DYN_SHARED_BYTES says. Instructions are counted in the disassembly, unrolled
loops as they stand.
"""

import doctest
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile

import nvrtc

TABLE = os.path.join(nvrtc.ROOT, "bench", "results", "resources.md")
ARCHS = ["70", "75", "80", "86", "89", "90"]

# arch: threads, blocks, shared memory of an SM in KiB; a block of 8.0 and later also takes 1 KiB for
# the system, shared memory is given in units of 256 (7.x) or 128 bytes. All: 64 Ki registers, given
# to a warp in units of 256.
SM = {"70": (2048, 32, 96, 0, 256), "75": (1024, 16, 64, 0, 256), "80": (2048, 32, 164, 1, 128),
      "86": (1536, 16, 100, 1, 128), "89": (1536, 24, 100, 1, 128), "90": (2048, 32, 228, 1, 128)}

COUNTED = [("HMMA", r"HMMA\b"), ("LDG.128", r"LDG(\.\w+)*\.128\b"), ("LDGSTS", r"LDGSTS\b"),
           ("LDS", r"LDS\b"), ("LDSM", r"LDSM\b"), ("SHFL", r"SHFL\b")]
LOOP = ["loop", "loop HMMA", "loop LSU", "loop MUFU", "loop bytes"]
COLUMNS = (["kernel", "sm", "threads", "registers", "static", "dynamic", "spilled", "blocks",
            "occupancy"] + [name for name, _ in COUNTED] + ["all"] + LOOP)


def up(x, unit):
    return (x + unit - 1) // unit * unit


def blocks_per_sm(arch, threads, registers, shared):
    """How many blocks are resident on an SM at once.

    >>> blocks_per_sm("70", 128, 96, 10240)  # 20 warps' registers
    5
    >>> blocks_per_sm("70", 256, 33, 0)  # 40 registers are given
    6
    >>> blocks_per_sm("80", 256, 32, 40000), blocks_per_sm("89", 256, 32, 40000)  # shared memory
    (4, 2)
    >>> blocks_per_sm("86", 32, 16, 0), blocks_per_sm("75", 1024, 64, 65536)  # blocks; all of it
    (16, 1)
    """
    sm_threads, sm_blocks, sm_shared, reserved, unit = SM[arch]
    warps = up(threads, 32) // 32
    limits = [sm_blocks, sm_threads // 32 // warps]
    # The registers lie in four parts of the SM, each serving a quarter of the warps.
    limits.append(16384 // up(max(registers, 1) * 32, 256) * 4 // warps)
    taken = up(shared + 1024 * reserved, unit)
    if taken:
        limits.append(sm_shared * 1024 // taken)
    return min(limits)


def demangled(names):
    """The C++ names of mangled ones, without parameters."""
    text = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True,
                          check=True).stdout
    return [re.sub(r"^void |\(.*", "", line).strip() for line in text.splitlines()]


def instructions(cubin):
    """The code of every kernel in a binary: {mangled name: [opcode, or label: or branch target]}; a ?
    behind the opcode of a branch or an exit that only some threads take."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as f:
        f.write(cubin)
        f.flush()
        text = subprocess.run([nvrtc.DISASSEMBLER, "-c", f.name], capture_output=True, text=True,
                              check=True).stdout
    found, current = {}, []
    for line in text.splitlines():
        section = re.match(r"\s*\.section\s+\.text\.(\S+?),", line)
        if section:
            current = found.setdefault(section.group(1), [])
        label = re.match(r"(\.L_\w+):", line)
        if label:
            current.append(label.group(0))
        code = re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(@\S+\s+)?([A-Z][A-Z0-9_.]*)(.*)", line)
        if code is None or code.group(2) == "NOP":
            continue
        whole = code.group(2) in ("BRA", "EXIT") and not re.match(r"\s*!?U?P\d", code.group(3))
        some = "" if whole and not code.group(1) else "?"
        if code.group(2).startswith("BRA"):
            current.append(f"BRA{some} " + re.search(r"\.L_\w+|$", code.group(3)).group(0))
        else:
            current.append(code.group(2) + (some if code.group(2) == "EXIT" else ""))
    return found


def lane_bytes(code):
    """How many bytes a lane moves with a load or store."""
    width = re.search(r"\.(128|64|U?16|U?8)\b", code)
    if code.startswith("LDSM"):
        return 4 * int(code.rsplit(".", 1)[1])
    return int(width.group(1).lstrip("US")) // 8 if width else 4


def reached(start, edges, first, last):
    """All places from first to last that edges lead to from start."""
    found, open_ends = set(), [start]
    while open_ends:
        i = open_ends.pop()
        if i not in found and first <= i <= last:
            found.add(i)
            open_ends += edges[i]
    return found


def loops(code):
    """The places in code of every loop: between a label and a branch back to it, without what only
    lies there but leads elsewhere.

    >>> list(loops([".L_a:", "BRA? .L_c", ".L_b:", "EXIT", ".L_c:", "HMMA", "BRA? .L_a", "BRA .L_b"]))
    [[0, 1, 4, 5, 6]]
    """
    at = {c[:-1]: i for i, c in enumerate(code) if c.endswith(":")}
    before, behind = [[] for _ in code], [[] for _ in code]
    for i, c in enumerate(code):
        target = re.match(r"BRA\?? (\S+)", c)
        to = [at[target.group(1)]] if target and target.group(1) in at else []
        if i + 1 < len(code) and not re.match(r"(BRA |EXIT$|RET)", c):
            to.append(i + 1)
        behind[i] = to
        for j in to:
            before[j].append(i)
    for head in at.values():
        for last in (i for i in before[head] if i > head):
            places = reached(last, before, head, last) & reached(head, behind, head, last)
            if places:
                yield sorted(places)


def hot_loop(code):
    """The table's loop columns.

    >>> hot_loop([".L_a:", "LDG.E.EF.128.SYS", ".L_b:", "HMMA.884", "LDS.64", "BRA? .L_b", "BRA .L_a"])
    {'loop': 3, 'loop HMMA': 1, 'loop LSU': 2, 'loop MUFU': 0, 'loop bytes': 0}
    """
    best, rank = [], (-1, -1, 0)
    for places in loops(code):
        body = [code[i] for i in places if not code[i].endswith(":")]
        tensor, loads = (sum(b.startswith(p) for b in body) for p in ("HMMA", "LDG"))
        if (tensor, 0 if tensor else loads, -len(body)) > rank:
            best, rank = body, (tensor, 0 if tensor else loads, -len(body))
    memory = [b for b in best if re.match(r"(LDG|LDGSTS|STG|LDS|LDSM|STS|LD|ST)\b", b)]
    # What is loaded once, past the caches; where nothing is, all that is loaded by 16 bytes.
    once = [b for b in memory if b.startswith("LDG") and ".EF" in b]
    once = once or [b for b in memory if b.startswith("LDG") and ".128" in b]
    # Beside such a stream, other loads are of a few rows that a warp's lanes share.
    stream = any(".EF" in b for b in once)
    width = [1 if stream and b.startswith("LDG") and b not in once else (lane_bytes(b) + 3) // 4
             for b in memory]
    return {"loop": len(best), "loop HMMA": rank[0] if best else 0, "loop LSU": sum(width),
            "loop MUFU": sum(b.startswith("MUFU") for b in best),
            "loop bytes": sum(lane_bytes(b) for b in once)}


def kernel_rows(job):
    """The table's rows of one (source, arch)."""
    compiled = nvrtc.compile_source(job)
    if not compiled.ok:
        raise ValueError(f"{compiled.source} for sm_{compiled.arch}:\n{compiled.log}")
    rows = []
    entries = re.split(r"\.entry\s+", compiled.ptx)[1:]
    names = [re.match(r"\w+", e).group(0) for e in entries]
    code = instructions(compiled.cubin)
    for name, shown, ptx in zip(names, demangled(names), entries):
        used = re.search(rf"Function properties for {name}\n.*?(\d+) bytes spill stores.*?"
                         r"Used (\d+) registers(.*)", compiled.log, re.S)
        static = re.search(r"^[^\n]*?(\d+) bytes smem", used.group(3))
        bound = re.search(r"\.maxntid (\d+)", ptx)
        dynamic = re.search(r"// dynamic shared memory (\d+)", ptx)
        if bound is None:
            raise ValueError(f"{shown} ({compiled.source}) has no __launch_bounds__")
        if dynamic is None and "mll_dynamic_shared" in ptx:
            raise ValueError(f"{shown} has dynamic shared memory and no DYN_SHARED_BYTES")
        row = {"kernel": shown, "sm": compiled.arch, "threads": int(bound.group(1)),
               "registers": int(used.group(2)), "static": int(static.group(1)) if static else 0,
               "dynamic": int(dynamic.group(1)) if dynamic else 0, "spilled": int(used.group(1)),
               "all": sum(not c.endswith(":") for c in code[name]), **hot_loop(code[name])}
        row["blocks"] = blocks_per_sm(compiled.arch, row["threads"], row["registers"],
                                      row["static"] + row["dynamic"])
        row["occupancy"] = 100 * row["blocks"] * row["threads"] // SM[compiled.arch][0]
        for column, pattern in COUNTED:
            row[column] = sum(re.match(pattern, c) is not None for c in code[name])
        rows.append(row)
    return rows


def headers_hash():
    """Of all that a kernel's source may include, and of what compiles and counts it."""
    digest = hashlib.sha256()
    here = os.path.dirname(os.path.abspath(__file__))
    files = [os.path.join(here, f) for f in ("cuda12.txt", "nvrtc.py", "resources.py")]
    folder = os.path.join(nvrtc.ROOT, "kernels")
    files += [os.path.join(folder, f) for f in sorted(os.listdir(folder)) if f[-2:] != ".c"]
    for path in files:
        if not path.endswith(".cu"):
            with open(path, "rb") as f:
                digest.update(f.read())
    return digest.hexdigest()


def known_rows(job):
    """kernel_rows, kept in the build folder as long as nothing that it depends on changes."""
    source, arch, headers = job
    with open(os.path.join(nvrtc.ROOT, "kernels", source), "rb") as f:
        key = hashlib.sha256(f.read() + f"{source} {arch} {headers}".encode()).hexdigest()
    path = os.path.join(nvrtc.ROOT, "build", "cuda12", "rows", key[:32] + ".json")
    if os.path.exists(path):
        with open(path) as f:
            return json.load(f)
    rows = kernel_rows((source, arch))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + f".{os.getpid()}", "w") as f:
        json.dump(rows, f)
    os.rename(f.name, path)
    return rows


def measure():
    """Every kernel for every architecture, sorted; ends the program where one does not compile."""
    headers = headers_hash()
    jobs = [(s, a, headers) for s in nvrtc.sources() for a in ARCHS]
    try:
        rows = sum(nvrtc.on_all_cores(known_rows, jobs), [])
    except ValueError as e:
        sys.exit(f"resources: {e}")
    return sorted(rows, key=lambda r: (r["kernel"], r["sm"]))


HEADER = """# What every kernel takes

Made by `make resources` (scripts/resources.py says how) with NVRTC 12.9.86; CI fails where a kernel
gets worse than this table. static, dynamic: bytes of shared memory a block; spilled: bytes of
registers; blocks: on an SM at once, occupancy: their share of its threads in percent; then
instructions in the disassembly. LDG.128, LDGSTS: loads of 16 bytes, copies to shared memory; LDS and
LDSM: reads of it; SHFL: shuffles. loop: instructions of the hot loop; among them loop HMMA; loop
LSU: turns of 128 bytes that its loads and stores take a warp; loop MUFU: exponentials and the like;
loop bytes: what a lane loads in it, of data that is read once if there is any.

"""


def write(rows):
    with open(TABLE, "w") as f:
        f.write(HEADER + "| " + " | ".join(COLUMNS) + " |\n")
        f.write("|" + " --- |" + " ---: |" * (len(COLUMNS) - 1) + "\n")
        for r in rows:
            f.write("| " + " | ".join(str(r[c]) for c in COLUMNS) + " |\n")


def read_table():
    """{(kernel, sm): row} of the table as it is checked in."""
    rows = {}
    with open(TABLE) as f:
        for line in f:
            cells = [c.strip() for c in line.strip().strip("|").split("|")]
            if len(cells) == len(COLUMNS) and cells[1].isdigit():
                row = dict(zip(COLUMNS, [cells[0], cells[1]] + [int(c) for c in cells[2:]]))
                rows[row["kernel"], row["sm"]] = row
    return rows


def worse(now, before):
    """In words, what is worse; empty if nothing."""
    if before is None:
        return ["not in the table"]
    found = []
    if now["spilled"]:
        found.append(f"{now['spilled']} bytes spilled")
    if now["occupancy"] < before["occupancy"]:
        found.append(f"occupancy {before['occupancy']} -> {now['occupancy']} %")
    if now["registers"] > before["registers"] + max(2, before["registers"] // 20):
        found.append(f"registers {before['registers']} -> {now['registers']}")
    return found


def main(arguments):
    if doctest.testmod().failed:
        return 1
    nvrtc.install()
    rows = measure()
    if arguments != ["--check"]:
        write(rows)
        print(f"{len(rows)} rows in {os.path.relpath(TABLE)}")
        return 0
    table, failed = read_table(), 0
    for row in rows:
        found = worse(row, table.get((row["kernel"], row["sm"])))
        failed += bool(found)
        if found:
            print(f"{row['kernel']} sm_{row['sm']}: " + ", ".join(found))
    if failed:
        print("If this is meant, `make resources` rewrites bench/results/resources.md: commit it too.")
    print(f"{len(rows) - failed} passed, {failed} failed")
    return failed != 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
