"""Telling others of a job's end: to whom, by what, and until when it is tried. The record of the job holds what is to be sent."""
