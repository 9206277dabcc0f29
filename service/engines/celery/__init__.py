"""The engine of many machines: Celery, on RabbitMQ or Redis. The only modules that import it."""
