"""The spool: how a job file becomes exactly one final status whatever is killed (docs/protocol.md).

`record` what is known of a submission · `reservations` who has an id · `publisher` how a job gets in without a file
drop · `seat` what a running watcher owns, and how it is fenced · `takeover` what becomes of a dead one's jobs ·
`drops` from a dropped file to the inbox · `journal` from the inbox to the final status · `listing` what readers see.
"""
