"""The end of a run: what it hands on, in folders, and the pictures."""

from typing import Any

from tutelage.classifiers import write_joint
from tutelage.clock import Clock
from tutelage.data.index import Data, Statistics
from tutelage.detector import Detector, write_detector
from tutelage.engine.launch import peak_memory
from tutelage.engine.run import RunFolder
from tutelage.engine.settings import RunSettings
from tutelage.engine.train import Numerics
from tutelage.engine.watch import Watch
from tutelage.export import write_timm
from tutelage.method import Method
from tutelage.methods.detection import Detection
from tutelage.methods.segmentation import Segmentation
from tutelage.methods.semiformer import Semiformer
from tutelage.segmenter import Segmenter, write_segmenter


def finish(
    run: RunFolder,
    method: Method,
    data: Data,
    settings: RunSettings[Any],
    numerics: Numerics,
    statistics: Statistics,
    watch: Watch,
    clock: Clock,
) -> None:
    """Export what the run hands on, encoder and classifier, segmenter or detector (and by option student and teachers), and
    draw what it sees.
    """
    pictures = watch.sample()
    encoders = {"encoder": method.encoder}
    if settings.export_teachers:
        others = {"student": method.student} | {name: teacher.encoder for name, teacher in method.teachers.items()}
        encoders |= {f"encoder-{name}": vit for name, vit in others.items() if vit is not method.encoder}
    if classifier := method.classifier():
        encoders["classifier"] = classifier
    for name, vit in encoders.items():
        difference = write_timm(
            vit,
            run.path / name,
            statistics,
            architecture=settings.backbone.name,
            pictures=pictures,
            classes=data.train.learned if name == "classifier" else (),
        )
        run.event("exported", folder=name, largest_difference=difference)
    size, classes = settings.backbone.size, data.train.classes
    if isinstance(method, Segmentation) and data.train.masks:
        segmenter = Segmenter(method, statistics, size, data.channels, classes, data.train.masks.values, "")
        difference = write_segmenter(segmenter, run.path / "segmenter", settings.backbone, pictures)
        run.event("exported", folder="segmenter", largest_difference=difference)
    if isinstance(method, Detection) and data.train.instances:
        short, ids = settings.views.detect.test_short, data.train.instances.ids
        detector = Detector(method, statistics, size, short, data.channels, classes, ids, "")
        difference = write_detector(detector, run.path / "detector", settings.backbone, pictures)
        run.event("exported", folder="detector", largest_difference=difference)
    if isinstance(method, Semiformer):
        two = (settings.backbone, statistics, data.channels, classes, pictures)
        run.event("exported", folder="joint", largest_difference=write_joint(method, run.path / "joint", *two))
    watch.draw(method, clock, statistics, run.path / "pictures")
    run.event("finished", step=clock.step, peak_memory=peak_memory(numerics.device))
