/* SPDX-License-Identifier: MIT */
/*
 * A volume that an agent has mounted, read by this process itself: the agent hands its
 * directory over.  So a volume that the engine mounts only for a container (one with
 * options, say) is read as fast as one that lies here.
 */
#ifndef DVOLFS_VOLUME_AGENT_HERE_H
#define DVOLFS_VOLUME_AGENT_HERE_H

#include "base/cancel.h"
#include "volume/contents.h"

struct agent_link;

/*
 * The contents of the agent's directory; a reference.  NULL: all has to be asked of the agent.
 * That is unless the link is a socket, this process may read every file, the agent's user and
 * group ids are this machine's, and the file system is one of this machine's disks and
 * memory: of another one a thread that waits for it cannot be called back, but an agent can
 * be done without.  Blocks.
 */
struct contents *agent_here(struct agent_link *link, struct cancel *cancel);

#endif
