"""What heads remember from step to step: a queue, a bank, the rows of recent instances."""

from unmix.models.memory.bank import MemoryBank
from unmix.models.memory.queue import FeatureQueue
from unmix.models.memory.recent import RecentInstances
from unmix.models.memory.rows_on_disk import RowsOnDisk

__all__ = ['FeatureQueue', 'MemoryBank', 'RecentInstances', 'RowsOnDisk']
