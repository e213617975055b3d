"""Makes generations: `python -m index_service.build`."""
