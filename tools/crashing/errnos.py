"""x"""
import argparse
def run(o: argparse.Namespace) -> str:
    return ""
