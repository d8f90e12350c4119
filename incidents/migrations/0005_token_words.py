"""What the admin calls a token."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("incidents", "0004_worsened")]

    operations = [
        migrations.AlterModelOptions(name="apitoken", options={"ordering": ["-created"], "verbose_name": "API token"}),
    ]
