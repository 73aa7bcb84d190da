"""MQTT and caption files: topics, payloads and their JSON Schemas, the outbox, the publisher, a broker for the demo.

Knows records, windows and telemetry; imports nothing of models.
"""
