from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("incidents", "0003_api")]

    operations = [
        migrations.AlterField(
            model_name="delivery",
            name="kind",
            field=models.TextField(
                choices=[
                    ("escalated", "escalated"),
                    ("worsened", "worsened"),
                    ("reminder", "reminder"),
                    ("cleared", "cleared"),
                ]
            ),
        ),
    ]
