"""peer_tools.py - what the comparisons with other programs share: our side of a conversation, order
statistics, the facts that stand with a result, and how a result is written."""
import datetime
import json
import pathlib
import platform
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAUSE = 0.05  # until the other side's idle threads sleep


class Ours:
    """A program of build/bench that answers a line of numbers to a line of words."""

    def __init__(self, program, threads, cpu_time):
        option = ["--cpu-time"] if cpu_time else []
        self.child = subprocess.Popen([program, str(threads)] + option, stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE, text=True)

    def ask(self, request):
        time.sleep(PAUSE)
        self.child.stdin.write(request + "\n")
        self.child.stdin.flush()
        return [float(x) for x in self.child.stdout.readline().split()]


def stats(values):
    """Order statistics, nearest rank as in bench/bench.c."""
    v = sorted(values)
    n = len(v)
    return {"median": v[(n - 1) // 2], "p10": v[(n - 1) // 10], "p90": v[(n * 9 + 9) // 10 - 1]}


def show(s, digits):
    return f"{s['median']:.{digits}f} ({s['p10']:.{digits}f}-{s['p90']:.{digits}f})"


def cpu_name():
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def facts(program):
    """What a result is worth little without; the commit is that of the program's build folder, whose mllama knows it
    (run.py builds all of them first)."""
    build = next(folder for folder in pathlib.Path(program).resolve().parents if (folder / "mllama").exists())
    info = subprocess.run([build / "mllama", "info", "--json"], check=True, capture_output=True, text=True).stdout
    return {"cpu": cpu_name(), "kernel": platform.release(), "date": datetime.date.today().isoformat(),
            "commit": json.loads(info)["commit"]}


def table(head, rows, numbers_from=0):
    """Lines of a markdown table; columns from numbers_from on stand right."""
    rule = ["---" if i < numbers_from else "---:" for i in range(len(head))]
    return ["| " + " | ".join(map(str, cells)) + " |" for cells in [head, rule, *rows]]


def write(path, data, lines):
    """path.json and path.md; the latter is also printed."""
    path = str(path)
    pathlib.Path(path + ".json").write_text(json.dumps(data, indent=1) + "\n")
    pathlib.Path(path + ".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
