"""The application of lambda_app.py, as Mangum hands it to Lambda's own runtime for Python."""

from lambda_app import application
from mangum import Mangum

handler = Mangum(application)


def raises(event, context):
    raise ValueError("the handler's own")
