"""What keeps the service up and says how it is: restart budgets, health, systemd, /healthz and /metrics.

Knows nothing of sensors, models or MQTT.
"""
