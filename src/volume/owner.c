/* SPDX-License-Identifier: MIT */
#include "volume/owner.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

struct owner {
    char boot[40];
    unsigned long long pidns;
    int pid;
    unsigned long long start;
};

/* Whether processes of others can be seen: with hidepid they cannot, proc(5). */
static bool sees_all(void)
{
    return access("/proc/1/stat", F_OK) == 0;
}

/* The start time of a process; -ENOENT where there is none, or only what its parent has
 * not waited for; -EIO: it cannot be told. */
static int read_start(int pid, unsigned long long *ret_start)
{
    char path[64], text[1024];
    (void)snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    FILE *file = fopen(path, "re");
    if (!file)
        return errno == ENOENT && sees_all() ? -ENOENT : -EIO;
    size_t len = fread(text, 1, sizeof(text) - 1, file);
    (void)fclose(file);
    text[len] = '\0';
    /* The second field is the program's name in parentheses and may hold anything. */
    const char *rest = strrchr(text, ')');
    char state;
    if (!rest || sscanf(rest + 1,
                        " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d "
                        "%*d %*d %llu",
                        &state, ret_start) != 2)
        return -EIO;
    return state == 'Z' || state == 'X' ? -ENOENT : 0;
}

static int read_boot(char ret_boot[40])
{
    FILE *file = fopen("/proc/sys/kernel/random/boot_id", "re");
    if (!file)
        return -EIO;
    int n = fscanf(file, "%39s", ret_boot);
    (void)fclose(file);
    return n == 1 ? 0 : -EIO;
}

static int read_self(struct owner *ret)
{
    struct stat st;
    if (read_boot(ret->boot) < 0 || stat("/proc/self/ns/pid", &st) < 0)
        return -EIO;
    ret->pidns = st.st_ino;
    ret->pid = getpid();
    return read_start(ret->pid, &ret->start) < 0 ? -EIO : 0;
}

int owner_self(char ret_owner[OWNER_BYTES])
{
    struct owner self;
    int r = read_self(&self);
    if (r < 0)
        return r;
    (void)snprintf(ret_owner, OWNER_BYTES, "%s:%llu:%d:%llu", self.boot, self.pidns, self.pid,
                   self.start);
    return 0;
}

static int64_t boot_time_s(void)
{
    struct timespec now, up;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    (void)clock_gettime(CLOCK_BOOTTIME, &up);
    return now.tv_sec - up.tv_sec;
}

enum owner_state owner_check(const char *owner, int64_t born_s)
{
    struct owner self, other;
    if (sscanf(owner, "%39[^:]:%llu:%d:%llu", other.boot, &other.pidns, &other.pid, &other.start) !=
            4 ||
        read_self(&self) < 0)
        return OWNER_UNKNOWN;
    if (strcmp(self.boot, other.boot) != 0)
        return born_s < boot_time_s() ? OWNER_DEAD : OWNER_UNKNOWN;
    if (self.pidns != other.pidns)
        return OWNER_UNKNOWN;
    unsigned long long start;
    int r = read_start(other.pid, &start);
    if (r == 0)
        return start == other.start ? OWNER_ALIVE : OWNER_DEAD;
    return r == -ENOENT ? OWNER_DEAD : OWNER_UNKNOWN;
}
