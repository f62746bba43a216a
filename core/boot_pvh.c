/* SPDX-License-Identifier: Apache-2.0 */
/* PVH start info, version 1. See boot_pvh.h. */
#include "core/boot_pvh.h"

#include "core/base/bytes.h"

#define START_MAGIC 0x336ec578u
#define START_VERSION 1u /* the first with a memory map */
#define START_BYTES_MAX 4096u

static struct err *put_modules(struct boot_env *env, gpa_t *ret_gpa)
{
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(START_BYTES_MAX);
	wbuf_u64(&w, env->initrd_gpa.v);
	wbuf_u64(&w, env->initrd_len);
	wbuf_u64(&w, 0); /* no command line of its own */
	wbuf_u64(&w, 0);
	TRY(wbuf_check(&w));
	return boot_put(env, "the PVH module list", w.p, w.len, 8, ret_gpa);
}

static struct err *put_memory_map(struct boot_env *env, gpa_t *ret_gpa)
{
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(START_BYTES_MAX);
	for (unsigned i = 0; i < env->e820.n; i++) {
		/* The ABI's types are those of E820. */
		wbuf_u64(&w, env->e820.e[i].base);
		wbuf_u64(&w, env->e820.e[i].len);
		wbuf_u32(&w, env->e820.e[i].type);
		wbuf_u32(&w, 0);
	}
	TRY(wbuf_check(&w));
	return boot_put(env, "the PVH memory map", w.p, w.len, 8, ret_gpa);
}

struct err *boot_pvh_build(struct boot_env *env, uint64_t entry, struct boot_regs *ret_regs)
{
	gpa_t modules = GPA(0);
	gpa_t map = GPA(0);
	if (env->initrd_len > 0) {
		TRY(put_modules(env, &modules));
	}
	TRY(put_memory_map(env, &map));
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(START_BYTES_MAX);
	wbuf_u32(&w, START_MAGIC);
	wbuf_u32(&w, START_VERSION);
	wbuf_u32(&w, 0); /* flags */
	wbuf_u32(&w, env->initrd_len > 0 ? 1 : 0);
	wbuf_u64(&w, modules.v);
	wbuf_u64(&w, env->cmdline_gpa.v);
	wbuf_u64(&w, env->in->rsdp.v);
	wbuf_u64(&w, map.v);
	wbuf_u32(&w, env->e820.n);
	wbuf_u32(&w, 0);
	TRY(wbuf_check(&w));
	gpa_t start = GPA(0);
	TRY(boot_put(env, "the PVH start info", w.p, w.len, 8, &start));
	*ret_regs = (struct boot_regs){ .mode = BOOT_PVH32, .rip = entry, .rbx = start.v };
	return NULL;
}
