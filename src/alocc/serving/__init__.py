"""The inspection station: a server over detectors, with history, marks and recalibration, and the page to work on."""
