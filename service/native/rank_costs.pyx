"""The costs of many ranks for one request; service/native/fallback.py computes and describes the same."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.math cimport INFINITY
from libc.stdint cimport int32_t, uint64_t
from libc.string cimport memcpy

cdef extern from *:
    """
    #define lowest_bit __builtin_ctzll
    """
    int lowest_bit(unsigned long long number) noexcept nogil


cdef class RankLoad:
    cdef public double overhead
    cdef public double seconds_per_token
    cdef public double weight
    cdef public bint is_busy
    cdef public double finish
    cdef public double behind
    cdef public Py_ssize_t requests
    cdef public double last_prefill

    def __init__(self, double overhead, double seconds_per_token, double weight=1.0):
        self.overhead = overhead
        self.seconds_per_token = seconds_per_token
        self.weight = weight

    def wait(self, double now):
        return max(0.0, self.finish - now) + self.behind


@cython.final
cdef class Positions:
    cdef int32_t *at
    cdef Py_ssize_t bits

    def __cinit__(self, list by_bit not None):
        cdef Py_ssize_t bit
        self.bits = len(by_bit)
        self.at = <int32_t *> PyMem_Malloc(max(1, self.bits) * sizeof(int32_t))
        if self.at is NULL:
            raise MemoryError
        for bit in range(self.bits):
            position = by_bit[bit]
            self.at[bit] = -1 if position is None else position

    def __dealloc__(self):
        PyMem_Free(self.at)


cdef struct Cost:
    double cost
    double uncached
    int32_t bit
    bint is_out


@cython.final
cdef class RankCosts:
    cdef readonly list ranks
    cdef Cost *of
    cdef Py_ssize_t size

    def __cinit__(self, list ranks not None, double uncached):
        cdef Py_ssize_t position
        self.ranks = ranks
        self.size = len(ranks)
        self.of = <Cost *> PyMem_Malloc(max(1, self.size) * sizeof(Cost))
        if self.of is NULL:
            raise MemoryError
        for position in range(self.size):
            if not isinstance(ranks[position], RankLoad):
                raise TypeError(f"a rank is needed, not {type(ranks[position])}")
            self.of[position].cost = 0.0
            self.of[position].uncached = uncached
            self.of[position].bit = -1
            self.of[position].is_out = False

    def __dealloc__(self):
        PyMem_Free(self.of)

    def hold(self, mask, Positions positions not None, double uncached):
        cdef bytes packed = mask.to_bytes((mask.bit_length() + 63) // 64 * 8, "little")
        cdef Py_ssize_t words = PyBytes_GET_SIZE(packed) // 8, word, bit, position
        cdef const char *at = PyBytes_AS_STRING(packed)
        cdef uint64_t left
        if mask.bit_length() > positions.bits:
            raise ValueError(f"bit {mask.bit_length() - 1} has no position")
        for word in range(words):
            memcpy(&left, at + 8 * word, 8)
            while left:
                bit = 64 * word + lowest_bit(left)
                left &= left - 1
                position = positions.at[bit]
                if 0 <= position < self.size:
                    self.of[position].uncached = uncached
                    self.of[position].bit = bit

    def bit(self, Py_ssize_t position):
        return self.at(position).bit

    def uncached(self, Py_ssize_t position):
        return self.at(position).uncached

    def set_uncached(self, Py_ssize_t position, double uncached):
        self.at(position).uncached = uncached

    def cost(self, Py_ssize_t position):
        return self.at(position).cost

    def weigh(self, double arrivals, double reused, double now):
        cdef double evicting = 1.0 + reused, wait
        cdef Py_ssize_t position = 0
        cdef RankLoad rank
        cdef Cost *one
        for rank in self.ranks:
            one = self.of + position
            position += 1
            if rank.is_busy:
                wait = rank.finish - now + rank.behind if rank.finish > now else rank.wait(now)
                one.cost = wait + rank.overhead + one.uncached * rank.seconds_per_token * (evicting + arrivals * wait)
            else:
                one.cost = rank.overhead + one.uncached * rank.seconds_per_token * evicting
            if rank.weight != 1.0:
                one.cost /= rank.weight

    def rule_out(self, list positions not None):
        cdef Py_ssize_t position
        for position in positions:
            self.at(position).is_out = True

    def best(self, double factor, double chance):
        cdef double limit = INFINITY, uncached = INFINITY, load = INFINITY, prefill = INFINITY, its_load
        cdef Py_ssize_t position, equal = 0, last = -1
        cdef RankLoad rank
        cdef Cost *one
        for position in range(self.size):
            if not self.of[position].is_out:
                limit = min(limit, self.of[position].cost)
        if limit == INFINITY:
            return None
        limit *= factor
        for position in range(self.size):
            one = self.of + position
            if one.cost > limit or one.uncached > uncached or one.is_out:
                continue
            rank = self.ranks[position]
            its_load = rank.requests / rank.weight
            if one.uncached < uncached or its_load < load or (its_load == load and rank.last_prefill < prefill):
                uncached, load, prefill = one.uncached, its_load, rank.last_prefill
                equal, last = 1, position
            elif its_load == load and rank.last_prefill == prefill:
                equal += 1
        if equal > 1:
            equal = min(equal - 1, <Py_ssize_t> (chance * equal))
            for position in range(last, self.size):
                one = self.of + position
                if one.cost > limit or one.uncached != uncached or one.is_out:
                    continue
                rank = self.ranks[position]
                if rank.requests / rank.weight == load and rank.last_prefill == prefill:
                    last = position
                    if equal == 0:
                        break
                    equal -= 1
        return last

    cdef Cost *at(self, Py_ssize_t position) except NULL:
        if not 0 <= position < self.size:
            raise IndexError(f"position {position} of {self.size} ranks")
        return self.of + position
