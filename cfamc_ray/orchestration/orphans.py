"""Placement groups whose creator has died, as a trial's Ray Train controller with its process or its machine.

Ray keeps such a group, and the resources of its workers, until the whole job ends. Ray Train removes it, but only where
Ray's dashboard runs, which it asks whether the controller is alive. Without that, no worker could start again.
"""

import ray
from ray._private.state import state
from ray._raylet import ActorID, PlacementGroupID
from ray.core.generated.gcs_pb2 import PlacementGroupTableData
from ray.util.placement_group import PlacementGroup, remove_placement_group


def remove_orphaned_groups() -> int:
    """Remove this job's placement groups whose creator has died; return their number.

    Ray's public table of placement groups does not tell their creators, so its private table is read.
    """
    job = ray.get_runtime_context().get_job_id()
    orphans = [
        group
        for group in map(
            PlacementGroupTableData.FromString, state._connect_and_get_accessor().get_placement_group_table()
        )
        if group.state != PlacementGroupTableData.REMOVED
        and group.creator_job_id.hex() == job
        and group.creator_actor_dead
        and not ActorID(group.creator_actor_id).is_nil()  # without an actor, this process is the creator
    ]
    for group in orphans:
        remove_placement_group(PlacementGroup(PlacementGroupID(group.placement_group_id)))
    return len(orphans)
