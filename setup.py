"""The one part that has to be compiled: `jaxrnn.ops.native`. Everything else is in `pyproject.toml`."""

import sys
from pathlib import Path

import jaxlib
from setuptools import Extension, setup

SOURCES = Path("jaxrnn/ops/native/csrc")
KERNELS = Extension(
    "jaxrnn.ops.native._kernels",
    sources=sorted(map(str, SOURCES.glob("*.cc"))),
    depends=sorted(map(str, SOURCES.glob("*.h"))),
    include_dirs=[str(Path(jaxlib.__file__).parent / "include")],
    # Vectors wider than the platform's own never leave a file, so how they would be passed is of no interest.
    extra_compile_args=["-std=c++17", "-O3", "-fvisibility=hidden", "-Wno-psabi"],
    define_macros=[("Py_LIMITED_API", "0x030B0000")],
    py_limited_api=True,
    optional=True,  # without a compiler, `implementation="scan"` does everything
)

setup(
    ext_modules=[] if sys.platform == "win32" else [KERNELS],  # the sources are for GCC and Clang
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
