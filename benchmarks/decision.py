"""What it costs processes to decide alike at every step: one sum of losses, gradient norm and wishes.

    .venv/bin/python benchmarks/decision.py [--processes 2] [--steps 2000]

Prints the median and the 95th percentile, in milliseconds, over gloo on this machine.
"""

import argparse
import os
import socket
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tutelage.distributed import all_sum, barrier

NUMBERS = 8


def decide(rank: int, processes: int, steps: int, port: int) -> None:
    """One of the processes; the first one prints."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=processes)
    torch.set_num_threads(1)
    numbers, times = torch.rand(NUMBERS).double(), []
    for _ in range(steps + 100):
        barrier()  # the processes arrive together, as they do after the gradients' reduction
        began = time.perf_counter()
        all_sum(numbers).tolist()
        times.append(1e3 * (time.perf_counter() - began))
    if rank == 0:
        ordered = sorted(times[100:])
        print(
            f"{processes} processes: median {ordered[steps // 2]:.3f} ms, 95 % below {ordered[steps * 95 // 100]:.3f} ms"
        )
    dist.destroy_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--steps", type=int, default=2000)
    arguments = parser.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    mp.spawn(decide, (arguments.processes, arguments.steps, free), nprocs=arguments.processes)
