"""Training of the embedded model from prepared samples: truth, fault, and a teacher's picture of it.

`python -m invsr_daemon.train.distil.gather` draws what is no photograph, `.make` prepares samples without
end, `.train` trains on what is there. All three can be stopped at any moment and begun again.
"""
