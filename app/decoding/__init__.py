"""The heart: strategies, verification, drafting, the plan and the acceptance statistics.

Knows models, spans and arrays; nothing of sensors, MQTT or configuration files.
"""
