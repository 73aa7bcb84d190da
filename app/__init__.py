"""The streaming application: sensors in, verified captions out. Imports `models`, never the other way round."""
