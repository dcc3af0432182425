"""What stands for a model where a test is about processes: by the names of clips."""

import os
import time

from vab_rt.many import Job, Report


def open_worker():
    def work(job: Job) -> Report:
        if "kills" in job.video.name:
            os._exit(9)
        if "slow" in job.video.name:
            time.sleep(600)
        return {"process": os.getpid()}

    return work
