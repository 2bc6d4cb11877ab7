"""Compositional pairs: does a model prefer a picture's caption to one that differs in a word, a number or an order?"""
