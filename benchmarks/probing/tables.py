"""Files of data that are small until something unpacks them, or that are no file: opened as the Data page does."""

from __future__ import annotations

import gzip
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.probing.folders import PLACES, place_damage
from benchmarks.probing.probe import Probe
from toolkit.config import DataConfig
from toolkit.data.storage.open_table import open_table
from toolkit.errors import ToolkitError
from toolkit.system.machine import free_memory_bytes

SECONDS = 120.0
MAX_GROWTH_BYTES = 700 << 20
"""What the process that asks may take in addition; the readers' own limits are theirs."""
ENDINGS = ("csv", "json", "jsonl", "parquet", "xlsx", "csv.gz", "json.gz", "txt", "zip", "tar.gz", "exe", "xls")
_MAIN = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
_REL = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_ENTITIES = "<!DOCTYPE x [<!ENTITY a0 'aaaaaaaaaa'>" + "".join(
    f"<!ENTITY a{n} '{f'&a{n - 1};' * 10}'>" for n in range(1, 12)
)
_OUTSIDE = '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">'


def write_xlsx(sheet: str, shared: str = "", declared: str = "", more: dict[str, str] | None = None) -> bytes:
    """Return a workbook with one sheet, made of text as it is."""
    head = f'<?xml version="1.0"?>{declared}'
    parts = {
        "[Content_Types].xml": '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        '<Default Extension="xml" ContentType="application/xml"/>'
        '<Override PartName="/xl/workbook.xml" ContentType="application/vnd.openxmlformats-officedocument.'
        'spreadsheetml.sheet.main+xml"/></Types>',
        "_rels/.rels": '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
        f'<Relationship Id="r1" Type="{_REL}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook {_MAIN} xmlns:r="{_REL}"><sheets><sheet name="s" sheetId="1" r:id="r1"/>'
        "</sheets></workbook>",
        "xl/_rels/workbook.xml.rels": '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/'
        f'relationships"><Relationship Id="r1" Type="{_REL}/worksheet" Target="worksheets/sheet1.xml"/>'
        f'<Relationship Id="r2" Type="{_REL}/sharedStrings" Target="sharedStrings.xml"/></Relationships>',
        "xl/worksheets/sheet1.xml": f"{head}<worksheet {_MAIN}>{sheet}</worksheet>",
        "xl/sharedStrings.xml": f"{head}<sst {_MAIN}>{shared}</sst>",
    }
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in {**parts, **(more or {})}.items():
            archive.writestr(name, text)
    return out.getvalue()


def _cells(*values: str) -> str:
    return "".join(f'<c r="{"AB"[at]}1" t="inlineStr"><is><t>{value}</t></is></c>' for at, value in enumerate(values))


def _workbooks() -> Iterator[tuple[str, bytes]]:
    row = f'<row r="1">{_cells("a", "b")}</row>'
    data = f"<sheetData>{row}</sheetData>"
    yield "good", write_xlsx(f"<sheetData>{row}{row.replace('1', '2')}</sheetData>")
    yield "entities", write_xlsx(f"<sheetData><row>{_cells('&a11;')}</row></sheetData>", declared=f"{_ENTITIES}]>")
    yield (
        "an outside entity",
        write_xlsx(f"<sheetData><row>{_cells('&e;')}</row></sheetData>", declared=f"{_OUTSIDE}]>"),
    )
    yield "dimension", write_xlsx(f'<dimension ref="A1:XFD1048576"/>{data}')
    yield (
        "a cell far away",
        write_xlsx(f'<sheetData>{row}<row r="1048576"><c r="XFD1048576"><v>1</v></c></row></sheetData>'),
    )
    yield "a row number of 10^9", write_xlsx(f'<sheetData>{row}<row r="1000000000"><c><v>1</v></c></row></sheetData>')
    yield (
        "odd references",
        write_xlsx('<sheetData><row r="-1"><c r="A0"><v>1</v></c><c r="1A"><v>2</v></c></row></sheetData>'),
    )
    yield "merged cells", write_xlsx(data + "<mergeCells>" + '<mergeCell ref="A1:XFD1048576"/>' * 500 + "</mergeCells>")
    yield "shared strings", write_xlsx(data, "<si><t>x</t></si>" * 3_000_000)
    yield "a long cell", write_xlsx(f"<sheetData><row>{_cells('x' * 200_000_000)}</row></sheetData>")
    yield (
        "a shared string that is missing",
        write_xlsx('<sheetData><row><c t="s"><v>999999999</v></c></row></sheetData>'),
    )
    yield "deep", write_xlsx("<a>" * 100_000 + "</a>" * 100_000)
    yield "formulas", write_xlsx('<sheetData><row><c r="A1"><f>CMD()</f></c></row></sheetData>')
    yield "two million empty rows", write_xlsx("<sheetData>" + "<row/>" * 2_000_000 + "</sheetData>")
    yield "many parts", write_xlsx(data, more={f"xl/media/{n}": "" for n in range(50_000)})
    yield "a part that climbs", write_xlsx(data, more={"../../outside.xml": "x"})
    yield "broken XML", write_xlsx("<sheetData><row>")
    yield "no zip", b"PK\x03\x04" + b"\0" * 1000
    inner = gzip.compress(b"\0" * 10**7)
    yield "zip in zip", write_xlsx(data, more={"xl/inner.zip": inner.hex()})


def _parquets() -> Iterator[tuple[str, bytes]]:
    def written(table: pa.Table, **options: object) -> bytes:
        out = io.BytesIO()
        pq.write_table(table, out, **options)
        return out.getvalue()

    good = written(pa.table({"a": ["x", "y"], "b": ["1", "2"]}))
    yield "good", good
    yield "one value ten million times", written(pa.table({"a": ["x" * 100] * 3_000_000}), compression="zstd")
    yield "lists", written(pa.table({"a": pa.array([[["x"] * 1000] * 100] * 100)}))
    kind: pa.DataType = pa.string()
    for _ in range(200):
        kind = pa.struct([("a", kind)])
    yield "200 structs deep", written(pa.table({"a": pa.nulls(3, kind)}))
    yield "5,000 columns", written(pa.table({f"c{n}": ["x"] for n in range(5000)}))
    yield "metadata of 20 MB", written(pa.table({"a": ["x"]}).replace_schema_metadata({"x": "y" * 20_000_000}))
    yield "odd pandas metadata", written(pa.table({"a": ["x"]}).replace_schema_metadata({"pandas": "[" * 100_000}))
    yield "binary", written(pa.table({"a": [b"\xff\xfe" * 10] * 3}))
    yield "no rows", written(pa.table({"a": pa.array([], pa.string())}))
    yield "the same name twice", written(pa.Table.from_arrays([pa.array(["x"]), pa.array(["y"])], names=["a", "a"]))
    for at in (4, len(good) // 2, len(good) - 12, len(good) - 8):
        yield f"a wrong byte at {at}", good[:at] + bytes([good[at] ^ 0xFF]) + good[at + 1 :]
    yield "a footer of 4 GB", good[:-8] + b"\xff\xff\xff\x7fPAR1"
    yield "cut", good[: len(good) // 2]
    yield "magic only", b"PAR1PAR1"


def _archives() -> Iterator[tuple[str, str, bytes]]:
    zeros = gzip.compress(b"\0" * 3_000_000_000, 1) if free_memory_bytes() > 12 << 30 else gzip.compress(b"\0" * 10**8)
    yield "zeros", "csv.gz", zeros
    yield "one letter", "csv.gz", gzip.compress(b"a,b\n" + b"x" * 500_000_000, 1)
    yield "many members", "csv.gz", gzip.compress(b"a,b\n1,2\n") * 20_000
    yield "nested", "csv.gz", gzip.compress(gzip.compress(gzip.compress(b"a,b\n1,2\n")))
    yield "rows of JSON", "json.gz", gzip.compress(b'{"a": 1}\n' * 20_000_000, 1)
    yield "brackets", "json.gz", gzip.compress(b"[" * 200_000_000, 1)
    yield (
        "a name that climbs",
        "csv.gz",
        b"\x1f\x8b\x08\x08\0\0\0\0\0\x03../../../x\0" + gzip.compress(b"a,b\n1,2\n")[10:],
    )
    yield "cut", "csv.gz", gzip.compress(b"a,b\n1,2\n" * 1000)[:-9]


def _texts() -> Iterator[tuple[str, str, bytes]]:
    yield "a quote that never ends", "csv", b'a,b\n"' + b"x" * 30_000_000
    yield "a line of 200 MB", "csv", b"x" * 200_000_000
    yield "a million columns", "csv", b"," * 1_000_000 + b"\n1"
    yield "NUL", "csv", b"\0" * 10_000_000
    yield "deep JSON", "json", b"[" * 10_000_000
    yield "deep objects", "jsonl", b'{"a":' * 2_000_000 + b"1" + b"}" * 2_000_000
    yield "lines of deep JSON", "jsonl", (b"[" * 500 + b"]" * 500 + b"\n") * 3000
    yield "long number", "json", b'[{"a": ' + b"9" * 5_000_000 + b"}]"
    yield "a million keys", "json", json.dumps([{f"k{n}": 1 for n in range(1_000_000)}]).encode()
    yield "half characters", "jsonl", b'{"a": "\\ud800", "b": "\\udfff"}\n' * 100
    yield "formulas", "csv", b"a,b\n=1+1,@x\n"
    yield "control", "csv", b"\x1b[2J,\xe2\x80\xae\n\x1b]0;x\x07,\x9b\n"


def table_probes(folder: Path) -> Iterator[Probe]:
    """Open each file, under its own ending and, for the small ones, under wrong ones."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, kind, write) in enumerate(_cases()):
        attempt = partial(_open, folder / f"t{number}", kind, write)
        yield Probe("tables", name, attempt, SECONDS, isolated=False)


def _cases() -> Iterator[tuple[str, str, Callable[[Path], object]]]:
    book, table = next(_workbooks())[1], next(_parquets())[1]
    small = {"a workbook": book, "a table": table, "nothing": b"", "a program": b"\x7fELF" * 99}
    for kind in ENDINGS:
        yield from ((f"{kind}: {place}", kind, partial(place_damage, damage=place)) for place in PLACES)
        yield from ((f"{name} as {kind}", kind, partial(_write, raw)) for name, raw in small.items())
    yield from ((f"xlsx: {name}", "xlsx", partial(_write, raw)) for name, raw in _workbooks())
    yield from ((f"parquet: {name}", "parquet", partial(_write, raw)) for name, raw in _parquets())
    yield from ((f"{kind}: {name}", kind, partial(_write, raw)) for name, kind, raw in chain(_archives(), _texts()))


def _write(raw: bytes, path: Path) -> None:
    path.write_bytes(raw)


def _open(folder: Path, kind: str, write: Callable[[Path], object]) -> str:
    folder.mkdir()
    path = folder / f"given.{kind}"
    write(path)
    outside = set(folder.parent.parent.iterdir())
    before = psutil.Process().memory_info().rss
    try:
        table = open_table(DataConfig(file_type="csv", path=str(path)), folder)
        if any("root:x:0" in str(cell) for cell in table.row(0).values()):
            return "a cell shows /etc/passwd"
    except ToolkitError as error:
        if not (error.message and error.hint):
            return f"no hint: {error.message}"
    finally:
        if path.is_file() and not path.is_symlink():
            os.truncate(path, 0)
    grown = psutil.Process().memory_info().rss - before
    new = set(folder.parent.parent.iterdir()) - outside - {folder.parent.parent / "state"}  # the key that signs tables
    return f"the app grew by {grown >> 20} MiB" if grown > MAX_GROWTH_BYTES else f"wrote {new}" if new else ""
