"""Vectors of block keys and block hashes: what the tables take and give."""

from collections.abc import Sequence

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport int64_t
from libc.string cimport memcpy


@cython.final
@cython.freelist(64)
cdef class KeyVector:
    """A read-only sequence of signed 64-bit integers."""

    def __dealloc__(self):
        PyMem_Free(self.at)

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        cdef Py_ssize_t position, start, stop, step, count
        cdef KeyVector part
        if isinstance(index, slice):
            start, stop, step = index.indices(self.size)
            count = len(range(start, stop, step))
            part = new_vector(count)
            for position in range(count):
                part.at[position] = self.at[start + position * step]
            return part
        position = index
        if position < 0:
            position += self.size
        if not 0 <= position < self.size:
            raise IndexError(f"index {index} of a vector of {self.size}")
        return self.at[position]

    def __iter__(self):
        cdef Py_ssize_t position
        return iter([self.at[position] for position in range(self.size)])

    def __contains__(self, number):
        return number in list(self)

    def __eq__(self, other):
        return list(self) == list(other) if isinstance(other, (KeyVector, list, tuple)) else NotImplemented

    def __repr__(self):
        return f"KeyVector({list(self)})"

    def __reduce__(self):
        return as_key_vector, (list(self),)


Sequence.register(KeyVector)


cdef KeyVector new_vector(Py_ssize_t size):
    """A vector whose numbers are set by the caller. Raises MemoryError."""
    cdef KeyVector vector = KeyVector.__new__(KeyVector)
    vector.at = <int64_t *> PyMem_Malloc(size * sizeof(int64_t) if size else 1)
    if vector.at is NULL:
        raise MemoryError
    vector.size = size
    return vector


cdef KeyVector as_vector(object numbers):
    """The numbers of any sequence. Raises OverflowError for one that is no signed 64-bit integer."""
    if isinstance(numbers, KeyVector):
        return <KeyVector> numbers
    cdef list listed = numbers if type(numbers) is list else list(numbers)
    cdef Py_ssize_t size = len(listed), position
    cdef KeyVector vector = new_vector(size)
    for position in range(size):
        vector.at[position] = listed[position]
    return vector


def as_key_vector(numbers):
    """Block keys or block hashes in the form that the tables take."""
    return as_vector(numbers)


def unpack_numbers(bytes packed not None):
    """Block keys or block hashes, 8 bytes little-endian each, in the form that the tables take."""
    cdef KeyVector vector = new_vector(PyBytes_GET_SIZE(packed) // 8)
    memcpy(vector.at, PyBytes_AS_STRING(packed), vector.size * sizeof(int64_t))
    return vector
