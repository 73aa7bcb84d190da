"""The bundled demo: its world and its small pair of networks."""
