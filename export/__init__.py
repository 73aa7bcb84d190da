"""torch to ONNX to engine, each with a parity check and a manifest. Imports `models`, never `app`."""
