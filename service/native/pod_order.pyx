"""Scores of many pods at once, from the mask of the groups that hold as much of a prompt."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc
from libc.stdint cimport int32_t, uint64_t
from libc.string cimport memcpy

cdef extern from *:
    """
    #define lowest_bit __builtin_ctzll
    """
    int lowest_bit(unsigned long long number) noexcept nogil


cdef class PodOrder:
    """The pods of cache groups in the order of their names: service/native/fallback.py describes its methods."""

    cdef readonly list names
    cdef int32_t *places  # of the name of each bit
    cdef Py_ssize_t bits

    def __cinit__(self, list by_bit not None, list former not None=[]):
        cdef dict known = dict.fromkeys(by_bit), order
        cdef Py_ssize_t number
        # Sorted faster if they come almost in order.
        self.names = sorted({name: None for name in [*[name for name in former if name in known], *by_bit]})
        order = {name: number for number, name in enumerate(self.names)}
        self.bits = len(by_bit)
        self.places = <int32_t *> PyMem_Malloc(max(1, self.bits) * sizeof(int32_t))
        if self.places is NULL:
            raise MemoryError
        for number in range(self.bits):
            self.places[number] = order[by_bit[number]]

    def __dealloc__(self):
        PyMem_Free(self.places)

    def add_scores(self, dict scores not None, mask, score, Py_ssize_t most):
        cdef bytes packed = mask.to_bytes((mask.bit_length() + 63) // 64 * 8, "little")
        cdef Py_ssize_t words = PyBytes_GET_SIZE(packed) // 8, word, bit, size = len(self.names) // 64 + 1
        cdef const char *at = PyBytes_AS_STRING(packed)
        cdef uint64_t left
        cdef uint64_t *wanted
        if mask.bit_length() > self.bits:
            raise ValueError(f"bit {mask.bit_length() - 1} has no pod")
        wanted = <uint64_t *> PyMem_Calloc(size, sizeof(uint64_t))
        if wanted is NULL:
            raise MemoryError
        try:
            for word in range(words):
                memcpy(&left, at + 8 * word, 8)
                while left:
                    bit = self.places[64 * word + lowest_bit(left)]
                    wanted[bit >> 6] |= <uint64_t> 1 << (bit & 63)
                    left &= left - 1
            for word in range(size):
                left = wanted[word]
                while left:
                    if len(scores) >= most:
                        return
                    scores.setdefault(self.names[64 * word + lowest_bit(left)], score)
                    left &= left - 1
        finally:
            PyMem_Free(wanted)
