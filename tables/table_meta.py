"""Where the numbers of a table come from, as its footer says."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bpnas.android_bench.device import DeviceInfo
from bpnas.android_bench.measurement import RunSettings
from bpnas.base.strict_json import parsed
from bpnas.profiler.backbone import Backbone
from bpnas.profiler.campaign.records import Setup
from bpnas.profiler.campaign.session import Statistic
from bpnas.tables.additivity.model_record import TableModels
from bpnas.tables.check_metadata import check_metadata
from bpnas.tables.errors import TableError, ViolationError, in_short, shown

SCHEMA_VERSION = 2

REMEDY = "build the table again with build-table, or mend the program that wrote it"
"""For a table that is whole and says what cannot be true."""


@dataclass(frozen=True, slots=True)
class ImportedFrom:
    """The published file that a table was made of, where nothing was measured here.

    Attributes:
        reader: name of the reader that understood it.
        file: its name, without folders.
        sha256: of the file, in hexadecimal.
        column: which one was read, where the file holds several devices.
    """

    reader: str
    file: str
    sha256: str
    column: str = ""


@dataclass(frozen=True, slots=True)
class TableMeta:
    """Where the numbers of a table come from.

    Attributes:
        device: fingerprint of the device and the runtime.
        settings: of the runs; None where nobody said, in an imported table.
        export_version: of the model files; 0 where they were not ours.
        backbones: what the table covers, one per input size (and number of classes).
        paths: names of the paths that it covers at every site.
        missing: keys that were planned but are not there, where that was allowed.
        models: that predict whole networks; see there.
        imported: the published file that the numbers come from; None where bpnas took them.
        statistic: of samples that stands for a session, and of sessions that stands for a part.
    """

    device: DeviceInfo
    settings: RunSettings | None
    export_version: int
    backbones: tuple[Backbone, ...]
    paths: tuple[str, ...]
    missing: tuple[str, ...]
    models: TableModels = field(default_factory=TableModels)
    imported: ImportedFrom | None = None
    statistic: Statistic = "median"

    @property
    def mock(self) -> bool:
        """Whether the latencies were computed, not measured."""
        return self.device.mock

    @property
    def device_name(self) -> str:
        return self.device.name

    @property
    def runtime(self) -> str:
        return self.device.runtime

    @property
    def setup(self) -> Setup | None:
        """What the measurements have in common; None where nobody said, in an imported table."""
        return None if self.settings is None else Setup(self.device, self.settings, self.export_version)

    @property
    def label(self) -> str:
        """The device for people; says so where the numbers are computed or imported."""
        if self.imported is None:
            return self.device.label
        return f"{self.device.model} (imported, not measured here)"

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        values: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "mock": self.mock,
            "device": json.loads(self.device.to_json()),
            "settings": None if self.settings is None else asdict(self.settings),
            "export_version": self.export_version,
            "backbones": [backbone.to_dict() for backbone in self.backbones],
            "paths": self.paths,
            "missing": self.missing,
        }
        if self.models != TableModels():  # nothing to say without whole networks
            values["models"] = self.models.to_dict()
        if self.statistic != "median":
            values["statistic"] = self.statistic
        if self.imported is not None:
            values["imported"] = asdict(self.imported)
        return values

    def to_json(self) -> str:
        """Canonical: equal metadata give equal texts."""
        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def from_json(cls, text: str, path: Path) -> TableMeta:
        """The inverse of `to_json`; `path` is named in errors.

        Raises:
            TableError: another schema version, or no metadata of a table; the message names the field.
        """
        try:
            values = parsed(text, finite=False)
            version = values.get("schema_version", SCHEMA_VERSION) if isinstance(values, dict) else SCHEMA_VERSION
            if not isinstance(version, int) or isinstance(version, bool):
                raise ViolationError(f"metadata field schema_version: must be a whole number, not {shown(version)}")
            if version != SCHEMA_VERSION:
                raise TableError(
                    f"{path}: table schema version {shown(version)}, but this bpnas reads version {SCHEMA_VERSION}; "
                    "build the table again from its records with build-table"
                )
            check_metadata(values)
        except ViolationError as error:
            raise TableError(f"{path}: {error}; {REMEDY}") from error
        except ValueError as error:
            raise TableError(f"{path}: its metadata cannot be read ({in_short(error)}); {REMEDY}") from error
        return cls(
            device=DeviceInfo.from_json(json.dumps(values["device"])),
            settings=None if values["settings"] is None else RunSettings.from_json(json.dumps(values["settings"])),
            export_version=values["export_version"],
            backbones=tuple(Backbone.from_dict(backbone) for backbone in values["backbones"]),
            paths=tuple(values["paths"]),
            missing=tuple(values["missing"]),
            models=TableModels.from_dict(values["models"]) if "models" in values else TableModels(),
            imported=ImportedFrom(**values["imported"]) if "imported" in values else None,
            statistic=values.get("statistic", "median"),
        )
