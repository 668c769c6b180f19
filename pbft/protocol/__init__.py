"""Agreement as a deterministic state machine: events in, effects out. [CL99 §4]

No sockets, files, clocks, randomness, tasks or logging. Time is a number handed in; signing is a pure function handed
in. Start reading at `replica.py`; `ordering.py` is the three-phase protocol; `effects.py` says what is durable before
what is sent.
"""
