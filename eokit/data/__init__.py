"""Sensors, samples, stores and published data sets. Import the module you need; this package imports nothing."""
