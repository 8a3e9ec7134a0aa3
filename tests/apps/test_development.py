"""Building and running software from the mount: Python, C, and the tools around them."""

import sys
import zipfile

import pytest

from tests.support.programs import kernel_only, run

pytestmark = pytest.mark.mount


def wheel(folder) -> str:
    """A wheel with a module and a script, made by hand so that no network is needed."""
    path = folder / "sample-1.0-py3-none-any.whl"
    info = "sample-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for n in range(60):
            archive.writestr(f"sample/m{n}.py", f"value = {n}\n" * 20)
        archive.writestr("sample/__init__.py", "def main():\n    print('it runs')\n")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: sample\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/entry_points.txt", "[console_scripts]\nsample = sample:main\n")
        names = [entry.filename for entry in archive.infolist()]
        archive.writestr(
            f"{info}/RECORD", "".join(f"{name},,\n" for name in (*names, f"{info}/RECORD"))
        )
    return str(path)


@kernel_only
def test_a_virtual_environment_lives_on_the_mount(folder):
    run(sys.executable, "-m", "venv", folder / "v")
    pip = (folder / "v/bin/python", "-m", "pip", "--disable-pip-version-check", "-q")
    run(*pip, "install", "--no-index", wheel(folder))
    assert run(folder / "v/bin/sample") == "it runs\n"
    run(folder / "v/bin/python", "-m", "compileall", "-q", "-f", folder / "v/lib")
    run(*pip, "uninstall", "-y", "sample")


def test_a_c_project_builds_in_parallel(folder):
    for n in range(20):
        (folder / f"f{n}.c").write_text(f"int f{n}(void) {{ return {n}; }}\n")
    calls = " + ".join(f"f{n}()" for n in range(20))
    heads = "".join(f"int f{n}(void);" for n in range(20))
    (folder / "main.c").write_text(f"{heads} int main(void) {{ return ({calls}) != 190; }}\n")
    (folder / "Makefile").write_text(
        "O := $(patsubst %.c,%.o,$(wildcard f*.c))\n"
        "program: main.o libf.a\n\tcc -o $@ main.o -L. -lf\n"
        "libf.a: $(O)\n\tar rcs $@ $(O)\n"
        "libshared.so: $(O)\n\tcc -shared -o $@ $(O)\n"
    )
    run("make", "-j2", "CFLAGS=-fPIC -g", "program", "libshared.so", cwd=folder)
    run(folder / "program")
    assert "up to date" in run("make", cwd=folder)
    (folder / "f3.c").write_text("int f3(void) { return 4; }\n")
    run("make", "-j2", "CFLAGS=-fPIC -g", cwd=folder)
    run(folder / "program", code=1)
    run("strip", folder / "program")
    run(folder / "program", code=1)
