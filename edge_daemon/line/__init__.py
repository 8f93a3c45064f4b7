"""The line: tickets, the dead-man gate, the PLC drivers and the small process that holds them.

Imports the standard library, pyserial and pymodbus only. The daemon talks to it through ``link.LineClient``.
"""
