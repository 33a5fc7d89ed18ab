"""Checks every job of a folder against the schema of jobs, and that the schema notices a misspelt key of each mapping."""

import copy
import json
import pathlib
import sys

import jsonschema
import yaml

schema = json.loads(pathlib.Path(sys.argv[1]).read_text())
jsonschema.Draft7Validator.check_schema(schema)
validator = jsonschema.Draft7Validator(schema)


class Loader(yaml.SafeLoader):
    """YAML 1.2's floats: `1.0e-3` and `1e-3`, which PyYAML takes for text."""


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    __import__("re").compile(r"^[-+]?[0-9][0-9_]*(\.[0-9]*)?([eE][-+]?[0-9]+)?$"),
    list("-+0123456789"),
)

MAPPINGS = ["", "data", "features.0", "tasks.0", "optimizer", "train", "train.eval", "checkpoint"]


def at(job, path):
    for key in filter(None, path.split(".")):
        job = job[int(key)] if key.isdigit() else job.get(key, {})
    return job


count = 0
for path in sorted(pathlib.Path(sys.argv[2]).glob("*.yaml")):
    job = yaml.load(path.read_text(), Loader)
    error = jsonschema.exceptions.best_match(validator.iter_errors(job))
    assert error is None, f"{path}: {error.json_path}: {error.message}"
    for place in MAPPINGS:
        wrong = copy.deepcopy(job)
        mapping = at(wrong, place)
        if mapping:
            mapping["no_such_key"] = 1
            assert not validator.is_valid(wrong), f"{path}: a key of `{place}` that there is not"
    wrong = copy.deepcopy(job)
    wrong["model"]["kind"] = "no_such_kind"
    assert not validator.is_valid(wrong), path
    count += 1
assert count > 10, count
print(f"{count} jobs, and each key misspelt")
