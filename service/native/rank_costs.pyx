"""The costs of ranks for one request; service/native/fallback.py computes the same."""


cdef class RankLoad:
    """One rank as its cost is computed from it: service/native/fallback.py describes its fields."""

    cdef public double overhead
    cdef public double seconds_per_token
    cdef public bint is_busy
    cdef public double finish
    cdef public double behind

    def __init__(self, double overhead, double seconds_per_token):
        self.overhead = overhead
        self.seconds_per_token = seconds_per_token

    def wait(self, double now):
        return max(0.0, self.finish - now) + self.behind


def costs_of(list ranks not None, list uncached not None, double arrivals, double reused, double now):
    cdef double evicting = 1.0 + reused, tokens, wait
    cdef list costs = []
    cdef RankLoad rank
    cdef Py_ssize_t position
    if len(ranks) != len(uncached):
        raise ValueError(f"{len(ranks)} ranks and {len(uncached)} numbers of tokens")
    for position, rank in enumerate(ranks):
        tokens = uncached[position]
        if rank.is_busy:
            wait = rank.finish - now + rank.behind if rank.finish > now else rank.wait(now)
            costs.append(wait + rank.overhead + tokens * rank.seconds_per_token * (evicting + arrivals * wait))
        else:
            costs.append(rank.overhead + tokens * rank.seconds_per_token * evicting)
    return costs


def near_lowest(list costs not None, double factor):
    cdef double limit = min(costs) * factor, cost
    cdef Py_ssize_t position
    return [position for position, cost in enumerate(costs) if cost <= limit]
