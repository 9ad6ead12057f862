"""Reads Parquet files with pandas, Polars and DuckDB and compares each with what `sweep query` says, to the bit.

Arguments: for each view a Parquet file, and a file with its rows as JSON, in any order.
"""

import json
import struct
import sys

import duckdb
import pandas
import polars

# SQLite has no flags; these columns are some.
FLAGS = ["blocked", "passed"]


def plain(name, value):
    """A value as JSON has it, floating point numbers as their bits."""
    if value is None or value is pandas.NA or value is pandas.NaT:
        return None
    if name.endswith("_ms") and not isinstance(value, int):
        return round(pandas.Timestamp(value).timestamp() * 1000)
    if name in FLAGS:
        return bool(value)
    return struct.pack("<d", value) if isinstance(value, float) else value


def rows(found):
    """Rows in an order that is the same for the same rows."""
    found = [{name: plain(name, value) for name, value in sorted(row.items())} for row in found]
    return sorted(found, key=repr)


def by_pandas(path):
    frame = pandas.read_parquet(path, dtype_backend="pyarrow")
    for name in frame:
        if name.endswith("_ms"):
            assert str(frame[name].dtype) == "timestamp[ms, tz=UTC][pyarrow]", frame[name].dtype
    return frame.to_dict("records")


def by_duckdb(path):
    relation = duckdb.read_parquet(path)
    moments = [name for name in relation.columns if name.endswith("_ms")]
    types = dict(zip(relation.columns, map(str, relation.types)))
    assert all(types[name] == "TIMESTAMP WITH TIME ZONE" for name in moments), types
    if moments:
        numbers = ", ".join(f"epoch_ms({name}) AS {name}" for name in moments)
        relation = duckdb.sql(f"SELECT * REPLACE ({numbers}) FROM relation")
    return [dict(zip(relation.columns, row)) for row in relation.fetchall()]


READERS = {"pandas": by_pandas, "polars": lambda path: polars.read_parquet(path).to_dicts(), "duckdb": by_duckdb}

for path, expected in zip(sys.argv[1::2], sys.argv[2::2]):
    expected = rows(json.load(open(expected)))
    assert expected, path
    for reader, read in READERS.items():
        found = rows(read(path))
        differences = [(a, b) for a, b in zip(found, expected) if a != b or list(map(type, a.values())) != list(map(type, b.values()))]
        assert len(found) == len(expected) and not differences, (reader, path, differences[:1])
print("checked")
