from django.apps import AppConfig


class BytePortConfig(AppConfig):
    name = "byteport"
    verbose_name = "BytePort"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from byteport import checks  # noqa: F401, PLC0415 (registers the system checks)
