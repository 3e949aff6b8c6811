"""Messages of ZeroMQ sockets, read by libzmq's own functions.

pyzmq's receive a frame per call; three of them take longer than all that a batch of one block needs.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport EAGAIN, EINTR
from libc.stdint cimport uint64_t, uintptr_t
from libc.string cimport memcpy, strcmp

cdef extern from *:
    """
    #define swapped64 __builtin_bswap64
    """
    uint64_t swapped64(uint64_t number) noexcept nogil

cdef enum:
    _DONT_WAIT = 1   # ZMQ_DONTWAIT
    _CONNECTION = 2  # ZMQ_SRCFD
    _FRAMES = 3
    _FUNCTIONS = 9

ctypedef void *Part[8]  # zmq_msg_t: 64 bytes, aligned as a pointer


cdef struct Functions:
    int (*init)(void *part) noexcept nogil
    int (*receive)(void *part, void *socket, int flags) noexcept nogil
    void *(*data)(void *part) noexcept nogil
    size_t (*size)(void *part) noexcept nogil
    int (*more)(void *part) noexcept nogil
    int (*get)(void *part, int option) noexcept nogil
    const char *(*gets)(void *part, const char *name) noexcept nogil
    int (*close)(void *part) noexcept nogil
    int (*failure)() noexcept nogil


@cython.final
cdef class Receiver:
    """Reads the messages of one socket, which must stay open.

    `functions` are the addresses of libzmq's functions, in the order of `Functions`; `socket` is that of the socket.
    `message` makes a message of its topic, sequence, payload, connection and peer; the last two are None unless
    `with_origin`. `malformed` stands for a message of other frames. `error` makes an exception of an error number.
    """

    cdef Functions zmq
    cdef void *socket
    cdef bint with_origin
    cdef object message, malformed, error
    cdef bytes host
    cdef object peer

    def __init__(self, functions, uintptr_t socket, *, bint with_origin, message, malformed, error):
        cdef uintptr_t[_FUNCTIONS] addresses
        cdef int number
        if len(functions) != _FUNCTIONS:
            raise ValueError(f"{len(functions)} functions, and not {_FUNCTIONS}")
        for number in range(_FUNCTIONS):
            addresses[number] = functions[number]
        memcpy(&self.zmq, addresses, sizeof(Functions))
        self.socket, self.with_origin = <void *> socket, with_origin
        self.message, self.malformed, self.error = message, malformed, error

    def receive(self):
        """The next message; None if the queue is empty."""
        cdef Part part
        cdef int number, failure
        cdef bint more
        cdef uint64_t sequence = 0
        topic = payload = connection = None
        number, more = 0, True
        while more:  # all frames of a message come together
            self.zmq.init(part)
            if self.zmq.receive(part, self.socket, _DONT_WAIT) < 0:
                failure = self.zmq.failure()
                if failure == EAGAIN:
                    return None
                if failure != EINTR:
                    raise self.error(failure)
                continue
            more = self.zmq.more(part)
            try:
                if number == 0:
                    topic = self.content(part)
                    if self.with_origin:
                        connection = self.connection(part)
                elif number == 1:
                    if self.zmq.size(part) == sizeof(sequence):
                        memcpy(&sequence, self.zmq.data(part), sizeof(sequence))
                    else:
                        number = _FRAMES  # which is too many
                elif number == 2:
                    payload = self.content(part)
            finally:
                self.zmq.close(part)
            number += 1
        if number != _FRAMES:
            return self.malformed
        return self.message(topic, swapped64(sequence), payload, connection, None if connection is None else self.peer)

    cdef bytes content(self, void *part):
        return PyBytes_FromStringAndSize(<char *> self.zmq.data(part), self.zmq.size(part))

    cdef object connection(self, void *part):
        """The number of a frame's connection, whose host becomes `peer`; None if it is not known."""
        cdef int connection = self.zmq.get(part, _CONNECTION)
        cdef const char *host = self.zmq.gets(part, b"Peer-Address")
        if connection < 0 or host is NULL:
            return None
        if self.host is None or strcmp(PyBytes_AS_STRING(self.host), host) != 0:
            self.host = host
            self.peer = host_name(self.host.decode(errors="replace"))
        return connection


cdef object host_name(str address):
    return address.removeprefix("::ffff:") or None  # IPv4 over a dual-stack socket
