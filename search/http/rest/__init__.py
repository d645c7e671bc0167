"""The REST interface, version 1: endpoints as data, what each answers, errors of one form, and its OpenAPI document."""
