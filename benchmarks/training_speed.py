"""Images per second of our training loop, against an ordinary one of the same model and recipe.

    python benchmarks/training_speed.py --data shared/data/cifar10

The ordinary loop is what tutorials show: a `Dataset` of single images with the usual transforms (random crop after
padding by 4, random mirror image, to tensor, normalise; written here as torchvision writes them, on PIL images), a
`DataLoader` with 0 and with 2 workers, of which the faster one counts, NCHW, float32, SGD, `loss.item()` at every step.
It runs in a process of its own, since ours changes how its process allocates memory. Both train on the same images with
as many threads, in turn, several times; the ratios are those of neighbours in time.

`--variants` times the settings `bfloat16` and `compile` too, with the time that compiling takes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import statistics
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from time import perf_counter
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from bpnas.profiler import Backbone, Block, build_module
from bpnas.profiler.backbone import Stage
from bpnas.search import Dataset, load_data
from bpnas.search.data.batches import pick_device
from bpnas.search.presets import Preset, TrainSettings
from bpnas.search.training.train import train

BLOCKS = ("K1G1", "K3G4", "K3E1G1", "K3E3G1")
BACKBONES = {
    "narrow": Backbone("narrow", 32, 8, 2, (Stage(16, 1, 2), Stage(32, 2, 2)), 64, 10),
    "mobilenetv2": Backbone.load("mobilenetv2", input_size=32),
}


class PlainImages(TorchDataset[tuple[torch.Tensor, int]]):
    """Single images through RandomCrop(32, padding=4), RandomHorizontalFlip, ToTensor, Normalize of torchvision."""

    def __init__(self, dataset: Dataset, count: int) -> None:
        split = dataset.train.first(count)
        self._images = split.images.permute(0, 2, 3, 1).contiguous().numpy()
        self._labels = split.labels.tolist()
        self._mean, self._std = dataset.mean, dataset.std

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        picture = ImageOps.expand(Image.fromarray(self._images[index]), border=4, fill=0)
        top, left = (int(torch.randint(0, 9, (1,))) for _ in range(2))
        picture = picture.crop((left, top, left + 32, top + 32))
        if torch.rand(1) < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(picture, np.uint8, copy=True))
        tensor = pixels.permute(2, 0, 1).contiguous().to(torch.float32).div(255)
        mean, std = (torch.as_tensor(values, dtype=tensor.dtype) for values in (self._mean, self._std))
        return tensor.clone().sub_(mean.view(-1, 1, 1)).div_(std.view(-1, 1, 1)), self._labels[index]


def processor_seconds() -> float:
    """Of this process and of its children that have ended."""
    return sum(os.times()[:4])


def plain_epoch(model: nn.Module, loader: DataLoader[tuple[torch.Tensor, int]], settings: TrainSettings) -> None:
    device = pick_device()
    model.to(device).train()
    optimizer = torch.optim.SGD(
        model.parameters(), settings.learning_rate, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
    total = 0.0
    for images, labels in loader:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images.to(device)), labels.to(device))
        loss.backward()
        optimizer.step()
        total += loss.item()


def make(backbone: str, block: str) -> nn.Module:
    chosen = BACKBONES[backbone]
    return build_module([Block.parse(block)] * len(chosen.sites), chosen)


def serve(kind: str, data: str, batch: int, threads: int, clock: Callable[[], float], pipe: Connection) -> None:
    """Answer (backbone, block, images, changes) with the seconds of one epoch, after a warm-up."""
    torch.set_num_threads(threads)
    dataset = load_data(f"cifar10:{data}", train_images=10_000)
    recipe = replace(Preset.load("paper").proposals.train, epochs=1, batch=batch)
    while (request := _received(pipe)) is not None:
        backbone, block, images, changes = request
        model, settings = make(backbone, block), replace(recipe, **changes)
        if kind == "ours":
            train(model, dataset, dataset.train.first(2 * batch), settings, seed=0)
            start = clock()
            train(model, dataset, dataset.train.first(images), settings, seed=0)
            pipe.send(clock() - start)
            continue
        times = []
        for workers in (0, 2):
            loader = DataLoader(PlainImages(dataset, images), batch, shuffle=True, num_workers=workers, drop_last=True)
            if workers == 0:
                warm = DataLoader(PlainImages(dataset, 2 * batch), batch)
                plain_epoch(model, warm, settings)
            start = clock()
            plain_epoch(model, loader, settings)
            times.append(clock() - start)
        pipe.send(min(times))


def _received(pipe: Connection) -> Any:
    """The next request; None if there is nobody to make one."""
    try:
        return pipe.recv()
    except EOFError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="the folder of CIFAR-10's parquet files")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of one epoch of ours, roughly")
    parser.add_argument("--processor-time", action="store_true", help="count it, on a machine that has other work")
    parser.add_argument("--variants", action="store_true")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for kind in ("plain", "ours"):
        pipes[kind], theirs = context.Pipe()
        clock = processor_seconds if arguments.processor_time else perf_counter
        given = (kind, arguments.data, arguments.batch, arguments.threads, clock, theirs)
        processes.append(context.Process(target=serve, args=given))  # no daemon: those may have no workers
        processes[-1].start()
        theirs.close()

    def rate(kind: str, images: int, backbone: str, block: str, **changes: object) -> float:
        pipes[kind].send((backbone, block, images, changes))
        return images / float(pipes[kind].recv())

    print(
        f"{pick_device()}, {arguments.threads} threads, batch {arguments.batch}; images/s, medians, "
        f"by {'processor' if arguments.processor_time else 'elapsed'} time"
    )
    for backbone in BACKBONES:
        for block in BLOCKS:
            speed = rate("ours", 4 * arguments.batch, backbone, block)
            images = max(4, min(round(speed * arguments.seconds), 9_000) // arguments.batch) * arguments.batch
            rows: dict[str, list[float]] = {"plain": [], "ours": [], "ratio": []}
            for number in range(arguments.rounds):
                order = ["plain", "ours"]
                random.Random(number).shuffle(order)
                found = {kind: rate(kind, images, backbone, block) for kind in order}
                for kind, value in found.items():
                    rows[kind].append(value)
                rows["ratio"].append(found["ours"] / found["plain"])
            medians = {name: statistics.median(values) for name, values in rows.items()}
            spread = f"{min(rows['ratio']):.2f} to {max(rows['ratio']):.2f}"
            print(
                f"{backbone:12} {block:7} plain {medians['plain']:6.0f}  ours {medians['ours']:6.0f}  "
                f"ratio {medians['ratio']:.2f} ({spread})",
                flush=True,
            )
            if arguments.variants:
                for changes in ({"precision": "bfloat16"}, {"compile": True}):
                    start = perf_counter()
                    value = rate("ours", images, backbone, block, **changes)
                    took = perf_counter() - start
                    print(f"{'':20} {changes}: {value:.0f}; all of it {took:.0f} s for {images} images", flush=True)
    for pipe in pipes.values():
        pipe.close()
    for process in processes:
        process.join()


if __name__ == "__main__":
    main()
