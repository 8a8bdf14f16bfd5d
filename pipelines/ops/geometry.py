"""Open3D on any machine: loading it where the system has no libusb."""

from __future__ import annotations

import ctypes
import functools
from types import ModuleType


@functools.cache
def open3d() -> ModuleType:
    """The `open3d` module.

    Open3D links libusb for depth cameras that nothing here uses. The PyPI package libusb-package
    ships that library; loaded first, and globally, it stands in where the system has none.
    """
    import libusb_package

    ctypes.CDLL(str(libusb_package.get_library_path()), mode=ctypes.RTLD_GLOBAL)
    import open3d

    return open3d
