"""One operation as the kernels read it: `struct operation` of `kernels/operation.h`."""

import ctypes
from enum import IntEnum, IntFlag


class Kind(IntEnum):
    """Which kernel runs a record, in the order of `enum kind`."""

    PRODUCT = 0
    CONVOLUTION = 1
    DEPTHWISE = 2
    DEPTHWISE_SPREAD = 3
    WEIGHT_PRODUCT = 4
    DEPTHWISE_WEIGHT = 5
    ACTIVATION = 6
    ADD = 7
    MEAN = 8
    MEAN_SPREAD = 9
    COLUMN_SUMS = 10
    KEEP = 11
    UPDATE = 12
    REPACK = 13


class Place(IntEnum):
    """What a record points to, in the order of `enum place`."""

    X = 0
    WEIGHTS = 1
    BIAS = 2
    Y = 3
    ADDED = 4
    MASK_OUT = 5
    MASK_IN = 6
    LIST = 7


class Flag(IntFlag):
    """How sums are finished and weights lie: `enum flag`."""

    CLAMPS_LOW = 1
    CLAMPS_HIGH = 2
    AT_BOUNDS = 4
    UNPACKED = 8


class Window(ctypes.Structure):
    """Images and the window that slides over them; pairs are (height, width)."""

    _fields_ = (
        *(
            (name, ctypes.c_int32)
            for name in ("batch", "height", "width", "channels", "out_height", "out_width")
        ),
        *((name, ctypes.c_int32 * 2) for name in ("kernel", "stride", "padding", "dilation")),
    )


class Record(ctypes.Structure):
    """`struct operation`."""

    _fields_ = (
        ("kind", ctypes.c_int32),
        ("flags", ctypes.c_int32),
        ("at", ctypes.c_int64 * len(Place)),
        ("present", ctypes.c_int32),
        ("absolute", ctypes.c_int32),
        *((name, ctypes.c_int64) for name in ("rows", "columns", "depth", "count")),
        ("window", Window),
        ("low", ctypes.c_float),
        ("high", ctypes.c_float),
    )


class Settings(ctypes.Structure):
    """`struct settings`: what an update is told; `states` is how many the optimizer has."""

    _fields_ = (
        *(
            (name, ctypes.c_double)
            for name in ("learning_rate", "momentum", "beta1", "beta2", "eps", "step")
        ),
        ("states", ctypes.c_int32),
    )
