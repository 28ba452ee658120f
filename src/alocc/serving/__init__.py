"""Detectors as a service: HTTP and a page, in one process. The only user of FastAPI, SQLAlchemy and prometheus."""
