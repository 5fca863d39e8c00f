"""Helpers for the tests of the doctor."""


def level_of(finding):
    assert bool(finding.cure) == (finding.level != "ok")
    assert "\n" not in str(finding)
    return finding.level


def program(folder, name):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("#!/bin/sh\n")
    (folder / name).chmod(0o755)
