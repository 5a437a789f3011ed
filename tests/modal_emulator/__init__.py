"""A server on loopback that speaks Modal's public protocol, so that the real `modal` client can be tested.

Written from `modal_proto` alone, which the `modal` wheel ships: nothing here imports `modal` or `theory`.
README.md says what it answers and what is guessed.
"""
