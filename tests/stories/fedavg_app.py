"""The same app with plain federated averaging."""

from dataclasses import replace

from lycia import SGD
from tests.stories.digits_app import app as adam_app

app = replace(adam_app, plan=replace(adam_app.plan, server=SGD()))
