"""The live service: cameras → windows → one model worker → publishing, supervised; commands, recording, health.

Puts sensors, the captioner and publishing together; nothing imports it but the commands and the fault run.
"""
