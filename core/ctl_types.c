/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tables of the control protocol's types. See ctl_types.h. A member without a C place (answers,
 * events) has offset 0: those are only checked.
 */
#include "core/ctl_types.h"

#include <errno.h>

#include "core/checkpoint.h"
#include "core/config.h"
#include "snapshot/snapshot.h"

#define UINT(max_)                                                                                 \
	{                                                                                          \
		.kind = WIRE_UINT, .max = (max_), .size = sizeof(uint64_t)                         \
	}
#define TEXT(max_)                                                                                 \
	{                                                                                          \
		.kind = WIRE_TEXT, .max = (max_), .size = (max_) + 1                               \
	}
#define COMPOSED(kind_, size_, members_)                                                           \
	{                                                                                          \
		.kind = (kind_), .size = (size_), .members = (members_),                           \
		.nmembers = ARRAY_LEN(members_)                                                    \
	}
/*
 * Members: AT at its place in a named struct; IN at its place in the struct `base_` within one;
 * _OPT may be left out; SEEN is only checked; UNIT is an enum's member without content.
 */
#define AT(struct_, name_, type_, member_)                                                         \
	{                                                                                          \
		name_, &(type_), offsetof(struct_, member_), false                                 \
	}
#define AT_OPT(struct_, name_, type_, member_)                                                     \
	{                                                                                          \
		name_, &(type_), offsetof(struct_, member_), true                                  \
	}
#define IN(struct_, base_, name_, type_, member_)                                                  \
	{                                                                                          \
		name_, &(type_), offsetof(struct_, base_.member_) - offsetof(struct_, base_),      \
			false                                                                      \
	}
#define IN_OPT(struct_, base_, name_, type_, member_)                                              \
	{                                                                                          \
		name_, &(type_), offsetof(struct_, base_.member_) - offsetof(struct_, base_), true \
	}
#define SEEN(name_, type_)                                                                         \
	{                                                                                          \
		name_, &(type_), 0, false                                                          \
	}
#define SEEN_OPT(name_, type_)                                                                     \
	{                                                                                          \
		name_, &(type_), 0, true                                                           \
	}
#define UNIT(name_)                                                                                \
	{                                                                                          \
		name_, NULL, 0, false                                                              \
	}

static const struct wire_type t_bool = { .kind = WIRE_BOOL, .size = sizeof(bool) };
static const struct wire_type t_int = { .kind = WIRE_INT, .size = sizeof(int64_t) };
static const struct wire_type t_fd = { .kind = WIRE_FD, .size = sizeof(int) };
static const struct wire_type t_u8 = UINT(UINT8_MAX);
static const struct wire_type t_u16 = UINT(UINT16_MAX);
static const struct wire_type t_u32 = UINT(UINT32_MAX);
static const struct wire_type t_u64 = UINT(INT64_MAX); /* what JSON numbers here can carry */
static const struct wire_type t_path = TEXT(CTL_PATH_MAX);
static const struct wire_type t_text = TEXT(CTL_PACKET_BYTES_MAX);

/* ---- requests ---- */

static const struct wire_member rtc_members[] = { { "clear_evt", &t_fd, 0, false } };
static const struct wire_type t_rtc = COMPOSED(WIRE_STRUCT, sizeof(int), rtc_members);

static const struct wire_member swap_disable_members[] = {
	IN(struct ctl_swap, disable, "slow_file_cleanup", t_bool, slow_file_cleanup),
};
static const struct wire_type t_swap_disable =
	COMPOSED(WIRE_STRUCT, sizeof(((struct ctl_swap *)0)->disable), swap_disable_members);
static const struct wire_member swap_members[] = {
	UNIT("Enable"),  UNIT("Trim"),
	UNIT("SwapOut"), AT(struct ctl_swap, "Disable", t_swap_disable, disable),
	UNIT("Status"),
};
static const struct wire_type t_swap = COMPOSED(WIRE_ENUM, sizeof(struct ctl_swap), swap_members);

static const struct wire_member gpe_members[] = {
	AT(struct ctl_gpe, "gpe", t_u32, gpe),
	AT_OPT(struct ctl_gpe, "clear_evt", t_fd, clear_evt),
};
static const struct wire_type t_gpe = COMPOSED(WIRE_STRUCT, sizeof(struct ctl_gpe), gpe_members);

static const struct wire_member adjust_members[] = {
	IN(struct ctl_balloon, adjust, "num_bytes", t_u64, num_bytes),
	IN(struct ctl_balloon, adjust, "wait_for_success", t_bool, wait_for_success),
};
static const struct wire_type t_adjust =
	COMPOSED(WIRE_STRUCT, sizeof(((struct ctl_balloon *)0)->adjust), adjust_members);
static const struct wire_type t_bins = {
	.kind = WIRE_LIST,
	.max = CTL_WS_BINS_MAX,
	.size = sizeof(((struct ctl_balloon *)0)->ws_config.bins),
	.off = sizeof(uint64_t),
	.of = &t_u32,
};
static const struct wire_member ws_config_members[] = {
	IN(struct ctl_balloon, ws_config, "bins", t_bins, bins),
	IN(struct ctl_balloon, ws_config, "refresh_threshold", t_u32, refresh_threshold),
	IN(struct ctl_balloon, ws_config, "report_threshold", t_u32, report_threshold),
};
static const struct wire_type t_ws_config =
	COMPOSED(WIRE_STRUCT, sizeof(((struct ctl_balloon *)0)->ws_config), ws_config_members);
static const struct wire_member balloon_members[] = {
	AT(struct ctl_balloon, "Adjust", t_adjust, adjust),
	UNIT("Stats"),
	UNIT("WorkingSet"),
	AT(struct ctl_balloon, "WorkingSetConfig", t_ws_config, ws_config),
};
static const struct wire_type t_balloon =
	COMPOSED(WIRE_ENUM, sizeof(struct ctl_balloon), balloon_members);

static const struct wire_member resize_members[] = {
	IN(struct ctl_disk, command.resize, "new_size", t_u64, new_size),
};
static const struct wire_type t_resize =
	COMPOSED(WIRE_STRUCT, sizeof(((struct ctl_disk *)0)->command.resize), resize_members);
static const struct wire_member disk_cmd_members[] = {
	IN(struct ctl_disk, command, "Resize", t_resize, resize),
};
static const struct wire_type t_disk_cmd =
	COMPOSED(WIRE_ENUM, sizeof(((struct ctl_disk *)0)->command), disk_cmd_members);
static const struct wire_member disk_members[] = {
	AT(struct ctl_disk, "disk_index", t_u64, disk_index),
	AT(struct ctl_disk, "command", t_disk_cmd, command),
};
static const struct wire_type t_disk = COMPOSED(WIRE_STRUCT, sizeof(struct ctl_disk), disk_members);

static const struct wire_member usb_file_members[] = { { "file", &t_fd, 0, false } };
static const struct wire_type t_usb_file = COMPOSED(WIRE_STRUCT, sizeof(int), usb_file_members);
static const struct wire_member usb_port_members[] = { { "port", &t_u8, 0, false } };
static const struct wire_type t_usb_port =
	COMPOSED(WIRE_STRUCT, sizeof(uint64_t), usb_port_members);
static const struct wire_type t_usb_ports = {
	.kind = WIRE_ARRAY,
	.max = CTL_USB_PORTS,
	.size = CTL_USB_PORTS * sizeof(uint64_t),
	.of = &t_u8,
};
static const struct wire_member usb_list_members[] = { { "ports", &t_usb_ports, 0, false } };
static const struct wire_type t_usb_list =
	COMPOSED(WIRE_STRUCT, CTL_USB_PORTS * sizeof(uint64_t), usb_list_members);
static const struct wire_member usb_members[] = {
	AT(struct ctl_usb, "AttachDevice", t_usb_file, file),
	AT(struct ctl_usb, "AttachSecurityKey", t_usb_file, file),
	AT(struct ctl_usb, "DetachDevice", t_usb_port, port),
	AT(struct ctl_usb, "ListDevice", t_usb_list, ports),
};
static const struct wire_type t_usb = COMPOSED(WIRE_ENUM, sizeof(struct ctl_usb), usb_members);

static const struct wire_member windowed_members[] = {
	IN(struct ctl_display, mode.windowed, NULL, t_u32, width),
	IN(struct ctl_display, mode.windowed, NULL, t_u32, height),
};
static const struct wire_type t_windowed =
	COMPOSED(WIRE_TUPLE, sizeof(((struct ctl_display *)0)->mode.windowed), windowed_members);
static const struct wire_member mode_members[] = {
	IN(struct ctl_display, mode, "windowed", t_windowed, windowed),
};
static const struct wire_type t_mode =
	COMPOSED(WIRE_ENUM, sizeof(((struct ctl_display *)0)->mode), mode_members);
static const struct wire_member dpi_members[] = {
	IN(struct ctl_display, dpi, NULL, t_u32, x),
	IN(struct ctl_display, dpi, NULL, t_u32, y),
};
static const struct wire_type t_dpi =
	COMPOSED(WIRE_TUPLE, sizeof(((struct ctl_display *)0)->dpi), dpi_members);
static const struct wire_member display_members[] = {
	AT_OPT(struct ctl_display, "mode", t_mode, mode),
	AT_OPT(struct ctl_display, "hidden", t_bool, hidden),
	AT_OPT(struct ctl_display, "refresh-rate", t_u32, refresh_rate),
	AT_OPT(struct ctl_display, "dpi", t_dpi, dpi),
	AT_OPT(struct ctl_display, "horizontal-dpi", t_u32, horizontal_dpi),
	AT_OPT(struct ctl_display, "vertical-dpi", t_u32, vertical_dpi),
};
static const struct wire_type t_display =
	COMPOSED(WIRE_STRUCT, sizeof(struct ctl_display), display_members);
static const struct wire_type t_displays = {
	.kind = WIRE_LIST,
	.max = CTL_DISPLAYS_MAX,
	.size = sizeof(((struct ctl_gpu *)0)->displays),
	.off = offsetof(struct ctl_gpu, displays.at) - offsetof(struct ctl_gpu, displays),
	.of = &t_display,
};
static const struct wire_member gpu_add_members[] = { { "displays", &t_displays, 0, false } };
static const struct wire_type t_gpu_add =
	COMPOSED(WIRE_STRUCT, sizeof(((struct ctl_gpu *)0)->displays), gpu_add_members);
static const struct wire_type t_display_ids = {
	.kind = WIRE_LIST,
	.max = CTL_DISPLAYS_MAX,
	.size = sizeof(((struct ctl_gpu *)0)->display_ids),
	.off = sizeof(uint64_t),
	.of = &t_u32,
};
static const struct wire_member gpu_remove_members[] = {
	{ "display_ids", &t_display_ids, 0, false },
};
static const struct wire_type t_gpu_remove =
	COMPOSED(WIRE_STRUCT, sizeof(((struct ctl_gpu *)0)->display_ids), gpu_remove_members);
static const struct wire_member mouse_mode_members[] = { UNIT("touchscreen"), UNIT("relative") };
static const struct wire_type t_mouse_mode =
	COMPOSED(WIRE_ENUM, sizeof(uint32_t), mouse_mode_members);
static const struct wire_member mouse_members[] = {
	IN(struct ctl_gpu, mouse, "display_id", t_u32, display_id),
	IN(struct ctl_gpu, mouse, "mouse_mode", t_mouse_mode, mouse_mode),
};
static const struct wire_type t_mouse =
	COMPOSED(WIRE_STRUCT, sizeof(((struct ctl_gpu *)0)->mouse), mouse_members);
static const struct wire_member gpu_members[] = {
	AT(struct ctl_gpu, "AddDisplays", t_gpu_add, displays),
	UNIT("ListDisplays"),
	AT(struct ctl_gpu, "RemoveDisplays", t_gpu_remove, display_ids),
	AT(struct ctl_gpu, "SetDisplayMouseMode", t_mouse, mouse),
};
static const struct wire_type t_gpu = COMPOSED(WIRE_ENUM, sizeof(struct ctl_gpu), gpu_members);

static const struct wire_member bat_type_members[] = { UNIT("goldfish") };
static const struct wire_type t_bat_type = COMPOSED(WIRE_ENUM, sizeof(uint32_t), bat_type_members);
static const struct wire_member bat_status_members[] = {
	UNIT("Unknown"), UNIT("Charging"), UNIT("Discharging"), UNIT("NotCharging"), UNIT("Full"),
};
static const struct wire_type t_bat_status =
	COMPOSED(WIRE_ENUM, sizeof(uint32_t), bat_status_members);
static const struct wire_member bat_health_members[] = {
	UNIT("Unknown"),
	UNIT("Good"),
	UNIT("Overheat"),
	UNIT("Dead"),
	UNIT("OverVoltage"),
	UNIT("UnexpectedFailure"),
	UNIT("Cold"),
	UNIT("WatchdogTimerExpire"),
	UNIT("SafetyTimerExpire"),
	UNIT("OverCurrent"),
};
static const struct wire_type t_bat_health =
	COMPOSED(WIRE_ENUM, sizeof(uint32_t), bat_health_members);
static const struct wire_member bat_cmd_members[] = {
	IN(struct ctl_bat, set, "SetStatus", t_bat_status, word),
	IN(struct ctl_bat, set, "SetHealth", t_bat_health, word),
	IN(struct ctl_bat, set, "SetPresent", t_u32, value),
	IN(struct ctl_bat, set, "SetCapacity", t_u32, value),
	IN(struct ctl_bat, set, "SetACOnline", t_u32, value),
	IN(struct ctl_bat, set, "SetFakeBatConfig", t_u32, value),
	UNIT("CancelFakeConfig"),
};
static const struct wire_type t_bat_cmd =
	COMPOSED(WIRE_ENUM, sizeof(((struct ctl_bat *)0)->set), bat_cmd_members);
static const struct wire_member bat_members[] = {
	AT(struct ctl_bat, NULL, t_bat_type, type),
	AT(struct ctl_bat, NULL, t_bat_cmd, set),
};
static const struct wire_type t_bat = COMPOSED(WIRE_TUPLE, sizeof(struct ctl_bat), bat_members);

static const struct wire_member snd_members[] = {
	IN(struct ctl_request, snd, "MuteAll", t_bool, mute),
};
static const struct wire_type t_snd =
	COMPOSED(WIRE_ENUM, sizeof(((struct ctl_request *)0)->snd), snd_members);

static const struct wire_member vfio_type_members[] = {
	UNIT("UpstreamPort"),
	UNIT("DownstreamPort"),
	UNIT("EndPoint"),
};
static const struct wire_type t_vfio_type =
	COMPOSED(WIRE_ENUM, sizeof(uint32_t), vfio_type_members);
static const struct wire_member vfio_device_members[] = {
	IN(struct ctl_vfio, device, "device_type", t_vfio_type, device_type),
	IN(struct ctl_vfio, device, "path", t_path, path),
	IN(struct ctl_vfio, device, "hp_interrupt", t_bool, hp_interrupt),
};
static const struct wire_type t_vfio_device =
	COMPOSED(WIRE_STRUCT, sizeof(((struct ctl_vfio *)0)->device), vfio_device_members);
static const struct wire_member vfio_members[] = {
	AT(struct ctl_vfio, "device", t_vfio_device, device),
	AT(struct ctl_vfio, "add", t_bool, add),
};
static const struct wire_type t_vfio = COMPOSED(WIRE_STRUCT, sizeof(struct ctl_vfio), vfio_members);

static const struct wire_type t_tap = TEXT(CTL_TAP_MAX);
static const struct wire_member net_members[] = {
	AT(struct ctl_net, "AddTap", t_tap, tap),
	AT(struct ctl_net, "RemoveTap", t_u8, bus),
};
static const struct wire_type t_net = COMPOSED(WIRE_ENUM, sizeof(struct ctl_net), net_members);

static struct err *check_tag(const void *value, const char *where)
{
	const char *tag = value;
	return tag[0] != 0 ? err_wrap(config_check_tag(tag), "%s", where) : NULL;
}

static struct err *check_take(const void *value, const char *where)
{
	const struct ctl_take *take = value;
	if (take->encrypt) {
		return err_set_errno(ERR(ERR_NOT_NOW,
					 "%s: this version cannot encrypt: send \"encrypt\":false",
					 where),
				     EOPNOTSUPP);
	}
	return NULL;
}

static const struct wire_type t_tag = {
	.kind = WIRE_TEXT,
	.max = NAME_BYTES_MAX,
	.size = NAME_BYTES_MAX + 1,
	.check = check_tag,
};
static const struct wire_member take_members[] = {
	AT(struct ctl_take, "snapshot_path", t_tag, tag),
	AT_OPT(struct ctl_take, "compress_memory", t_bool, compress_memory),
	AT_OPT(struct ctl_take, "encrypt", t_bool, encrypt),
};
static const struct wire_type t_take = {
	.kind = WIRE_STRUCT,
	.size = sizeof(struct ctl_take),
	.members = take_members,
	.nmembers = ARRAY_LEN(take_members),
	.check = check_take,
};
static const struct wire_member snapshot_members[] = {
	IN(struct ctl_request, snapshot, "Take", t_take, take),
};
static const struct wire_type t_snapshot =
	COMPOSED(WIRE_ENUM, sizeof(((struct ctl_request *)0)->snapshot), snapshot_members);

static const struct wire_member event_name_members[] = {
#define X(id, name) UNIT(name),
	CTL_EVENTS(X)
#undef X
};
static const struct wire_type t_event_name =
	COMPOSED(WIRE_ENUM, sizeof(uint32_t), event_name_members);
static struct err *check_socket(const void *value, const char *where)
{
	ENSURE(((const char *)value)[0] == '/', ERR_USAGE,
	       "%s: give the absolute path of a listening SOCK_SEQPACKET socket", where);
	return NULL;
}
static const struct wire_type t_socket = {
	.kind = WIRE_TEXT,
	.max = CTL_SOCKET_PATH_MAX,
	.size = CTL_SOCKET_PATH_MAX + 1,
	.check = check_socket,
};
static const struct wire_member listener_members[] = {
	AT(struct ctl_listener, "socket_addr", t_socket, socket_addr),
	AT(struct ctl_listener, "event", t_event_name, event),
};
static const struct wire_type t_listener =
	COMPOSED(WIRE_STRUCT, sizeof(struct ctl_listener), listener_members);
static const struct wire_member unregister_members[] = {
	AT(struct ctl_listener, "socket_addr", t_socket, socket_addr),
};
static const struct wire_type t_unregister =
	COMPOSED(WIRE_STRUCT, sizeof(struct ctl_listener), unregister_members);

static const struct wire_member throttle_members[] = {
	AT(struct ctl_throttle, NULL, t_u64, vcpu),
	AT(struct ctl_throttle, NULL, t_u32, us),
};
static const struct wire_type t_throttle =
	COMPOSED(WIRE_TUPLE, sizeof(struct ctl_throttle), throttle_members);

static const struct wire_member memory_members[] = {
	AT(struct ctl_memory, "fd", t_fd, fd),
	AT(struct ctl_memory, "offset", t_u64, offset),
	AT(struct ctl_memory, "range_start", t_u64, range_start),
	AT(struct ctl_memory, "range_end", t_u64, range_end),
	AT(struct ctl_memory, "cache_coherent", t_bool, cache_coherent),
};
static const struct wire_type t_memory =
	COMPOSED(WIRE_STRUCT, sizeof(struct ctl_memory), memory_members);
static const struct wire_member region_members[] = { { "region_id", &t_u64, 0, false } };
static const struct wire_type t_region = COMPOSED(WIRE_STRUCT, sizeof(uint64_t), region_members);

static struct err *check_version(const void *value, const char *where)
{
	uint64_t v = *(const uint64_t *)value;
	ENSURE(v == 1, ERR_INCOMPAT, "%s: version %llu is not spoken here: use \"v\":1", where,
	       (unsigned long long)v);
	return NULL;
}
static const struct wire_type t_version = {
	.kind = WIRE_UINT,
	.max = UINT32_MAX,
	.size = sizeof(uint64_t),
	.check = check_version,
};
static const struct wire_type t_max_pause = {
	.kind = WIRE_UINT,
	.max = 60000000,
	.size = sizeof(uint64_t),
};
static const struct wire_member torpor_take_members[] = {
	AT_OPT(struct ctl_take, "tag", t_tag, tag),
	AT_OPT(struct ctl_take, "max_pause_us", t_max_pause, max_pause_us),
};
static const struct wire_type t_torpor_take =
	COMPOSED(WIRE_STRUCT, sizeof(struct ctl_take), torpor_take_members);
static struct err *check_every(const void *value, const char *where)
{
	uint64_t unused;
	return err_wrap(checkpoint_parse_every(value, &unused), "%s", where);
}
static struct err *check_keep(const void *value, const char *where)
{
	struct prune_policy unused;
	return err_wrap(checkpoint_parse_keep(value, &unused), "%s", where);
}
static const struct wire_type t_every = {
	.kind = WIRE_TEXT,
	.max = CHECKPOINT_TEXT_MAX,
	.size = CHECKPOINT_TEXT_MAX + 1,
	.check = check_every,
};
static const struct wire_type t_keep = {
	.kind = WIRE_TEXT,
	.max = CHECKPOINT_TEXT_MAX,
	.size = CHECKPOINT_TEXT_MAX + 1,
	.check = check_keep,
};
static const struct wire_member checkpoint_policy_members[] = {
	AT_OPT(struct ctl_checkpoint, "every", t_every, every),
	AT_OPT(struct ctl_checkpoint, "keep", t_keep, keep),
};
static const struct wire_type t_checkpoint_policy =
	COMPOSED(WIRE_STRUCT, sizeof(struct ctl_checkpoint), checkpoint_policy_members);
static const struct wire_type t_ref = TEXT(REF_BYTES_MAX);
static const struct wire_member rewind_members[] = {
	AT(struct ctl_rewind, "ref", t_ref, ref),
};
static const struct wire_type t_rewind =
	COMPOSED(WIRE_STRUCT, sizeof(struct ctl_rewind), rewind_members);
static const struct wire_member job_id_members[] = {
	AT(struct ctl_job_id, "id", t_u64, id),
};
static const struct wire_type t_job_id =
	COMPOSED(WIRE_STRUCT, sizeof(struct ctl_job_id), job_id_members);
static const struct wire_member swap_enable_members[] = {
	AT_OPT(struct ctl_swap_enable, "as_snapshot", t_tag, as_snapshot),
};
static const struct wire_type t_swap_enable =
	COMPOSED(WIRE_STRUCT, sizeof(struct ctl_swap_enable), swap_enable_members);

static struct err *check_absolute(const void *value, const char *where)
{
	ENSURE(((const char *)value)[0] == '/', ERR_USAGE,
	       "%s: give the absolute path, which a restore will open", where);
	return NULL;
}
static const struct wire_type t_disk_path = {
	.kind = WIRE_TEXT,
	.max = CONFIG_PATH_BYTES_MAX,
	.size = CONFIG_PATH_BYTES_MAX + 1,
	.check = check_absolute,
};
static const struct wire_type t_net_end = TEXT(CONFIG_PATH_BYTES_MAX);
static struct err *check_device_id(const void *value, const char *where)
{
	const char *id = value;
	return id[0] != 0 ? err_wrap(config_check_name(id), "%s", where) : NULL;
}
static const struct wire_type t_device_id = {
	.kind = WIRE_TEXT,
	.max = NAME_BYTES_MAX,
	.size = NAME_BYTES_MAX + 1,
	.check = check_device_id,
};
static struct err *check_mac(const void *value, const char *where)
{
	uint8_t unused[CONFIG_MAC_BYTES];
	return err_wrap(config_mac_parse(value, unused), "%s", where);
}
static const struct wire_type t_mac = {
	.kind = WIRE_TEXT,
	.max = 3 * CONFIG_MAC_BYTES - 1,
	.size = 3 * CONFIG_MAC_BYTES,
	.check = check_mac,
};
static const struct wire_type t_queues = UINT(CONFIG_QUEUES_MAX);
static const struct wire_type t_mtu = UINT(CONFIG_MTU_MAX);
static const struct wire_type t_unplug_ms = UINT(CTL_UNPLUG_MS_MAX);
static const struct wire_member disk_add_members[] = {
	AT(struct ctl_disk_add, "fd", t_fd, fd),
	AT(struct ctl_disk_add, "path", t_disk_path, path),
	AT_OPT(struct ctl_disk_add, "id", t_device_id, id),
	AT_OPT(struct ctl_disk_add, "ro", t_bool, ro),
	AT_OPT(struct ctl_disk_add, "queues", t_queues, queues),
};
static const struct wire_type t_disk_add =
	COMPOSED(WIRE_STRUCT, sizeof(struct ctl_disk_add), disk_add_members);
static const struct wire_member net_add_members[] = {
	AT_OPT(struct ctl_net_add, "fd", t_fd, fd),
	AT_OPT(struct ctl_net_add, "header", t_bool, header),
	AT(struct ctl_net_add, "end", t_net_end, end),
	AT_OPT(struct ctl_net_add, "id", t_device_id, id),
	AT_OPT(struct ctl_net_add, "mac", t_mac, mac),
	AT_OPT(struct ctl_net_add, "mtu", t_mtu, mtu),
};
static const struct wire_type t_net_add =
	COMPOSED(WIRE_STRUCT, sizeof(struct ctl_net_add), net_add_members);
static const struct wire_member device_kind_members[] = { UNIT("disk"), UNIT("net") };
static const struct wire_type t_device_kind =
	COMPOSED(WIRE_ENUM, sizeof(uint32_t), device_kind_members);
static const struct wire_member device_remove_members[] = {
	AT(struct ctl_device_remove, "kind", t_device_kind, kind),
	AT(struct ctl_device_remove, "id", t_device_id, id),
	AT_OPT(struct ctl_device_remove, "force", t_bool, force),
	AT_OPT(struct ctl_device_remove, "timeout_ms", t_unplug_ms, timeout_ms),
};
static const struct wire_type t_device_remove =
	COMPOSED(WIRE_STRUCT, sizeof(struct ctl_device_remove), device_remove_members);

static const struct wire_member torpor_cmd_members[] = {
	UNIT("Status"),
	IN_OPT(struct ctl_torpor, cmd, "Take", t_torpor_take, take),
	UNIT("TakeStatus"),
	UNIT("TakeCancel"),
	UNIT("Subscribe"),
	IN(struct ctl_torpor, cmd, "CheckpointPolicy", t_checkpoint_policy, checkpoint),
	UNIT("CheckpointStatus"),
	IN(struct ctl_torpor, cmd, "Rewind", t_rewind, rewind),
	UNIT("Jobs"),
	IN(struct ctl_torpor, cmd, "Job", t_job_id, job),
	IN(struct ctl_torpor, cmd, "JobWait", t_job_id, job),
	IN(struct ctl_torpor, cmd, "JobCancel", t_job_id, job),
	IN_OPT(struct ctl_torpor, cmd, "SwapEnable", t_swap_enable, swap_enable),
	UNIT("SwapStatus"),
	IN(struct ctl_torpor, cmd, "DiskAdd", t_disk_add, disk_add),
	IN(struct ctl_torpor, cmd, "NetAdd", t_net_add, net_add),
	IN(struct ctl_torpor, cmd, "DeviceRemove", t_device_remove, device_remove),
};
static const struct wire_type t_torpor_cmd =
	COMPOSED(WIRE_ENUM, sizeof(((struct ctl_torpor *)0)->cmd), torpor_cmd_members);
static const struct wire_type t_deadline = UINT(CTL_DEADLINE_MS_MAX);
static const struct wire_member torpor_members[] = {
	AT(struct ctl_torpor, "v", t_version, v),
	AT_OPT(struct ctl_torpor, "deadline_ms", t_deadline, deadline_ms),
	AT_OPT(struct ctl_torpor, "detach", t_bool, detach),
	AT(struct ctl_torpor, "cmd", t_torpor_cmd, cmd),
};
static struct err *check_torpor(const void *value, const char *where)
{
	const struct ctl_torpor *t = value;
	ENSURE(!t->detach || t->cmd.cmd == CTL_TORPOR_TAKE || t->cmd.cmd == CTL_TORPOR_REWIND,
	       ERR_USAGE, "%s.detach: only Take and Rewind go on by themselves", where);
	return NULL;
}
static const struct wire_type t_torpor = {
	.kind = WIRE_STRUCT,
	.size = sizeof(struct ctl_torpor),
	.members = torpor_members,
	.nmembers = ARRAY_LEN(torpor_members),
	.check = check_torpor,
};

/* In the order of CTL_VARIANTS. */
static const struct wire_member request_members[CTL__COUNT] = {
	[CTL_EXIT] = UNIT("Exit"),
	[CTL_POWERBTN] = UNIT("Powerbtn"),
	[CTL_SLEEPBTN] = UNIT("Sleepbtn"),
	[CTL_RTC] = AT(struct ctl_request, "Rtc", t_rtc, rtc),
	[CTL_SUSPEND_VCPUS] = UNIT("SuspendVcpus"),
	[CTL_SWAP] = AT(struct ctl_request, "Swap", t_swap, swap),
	[CTL_RESUME_VCPUS] = UNIT("ResumeVcpus"),
	[CTL_GPE] = AT(struct ctl_request, "Gpe", t_gpe, gpe),
	[CTL_PCI_PME] = AT(struct ctl_request, "PciPme", t_u16, pme_id),
	[CTL_MAKE_RT] = UNIT("MakeRT"),
	[CTL_BALLOON] = AT(struct ctl_request, "BalloonCommand", t_balloon, balloon),
	[CTL_DISK] = AT(struct ctl_request, "DiskCommand", t_disk, disk),
	[CTL_USB] = AT(struct ctl_request, "UsbCommand", t_usb, usb),
	[CTL_GPU] = AT(struct ctl_request, "GpuCommand", t_gpu, gpu),
	[CTL_BAT] = AT(struct ctl_request, "BatCommand", t_bat, bat),
	[CTL_SND] = AT(struct ctl_request, "SndCommand", t_snd, snd),
	[CTL_HOTPLUG_VFIO] = AT(struct ctl_request, "HotPlugVfioCommand", t_vfio, vfio),
	[CTL_HOTPLUG_NET] = AT(struct ctl_request, "HotPlugNetCommand", t_net, net),
	[CTL_SNAPSHOT] = AT(struct ctl_request, "Snapshot", t_snapshot, snapshot),
	[CTL_REGISTER_LISTENER] = AT(struct ctl_request, "RegisterListener", t_listener, listener),
	[CTL_UNREGISTER_LISTENER] =
		AT(struct ctl_request, "UnregisterListener", t_listener, listener),
	[CTL_UNREGISTER] = AT(struct ctl_request, "Unregister", t_unregister, listener),
	[CTL_SUSPEND_VM] = UNIT("SuspendVm"),
	[CTL_RESUME_VM] = UNIT("ResumeVm"),
	[CTL_VCPU_PID_TID] = UNIT("VcpuPidTid"),
	[CTL_THROTTLE] = AT(struct ctl_request, "Throttle", t_throttle, throttle),
	[CTL_GET_VM_DESCRIPTOR] = UNIT("GetVmDescriptor"),
	[CTL_REGISTER_MEMORY] = AT(struct ctl_request, "RegisterMemory", t_memory, memory),
	[CTL_UNREGISTER_MEMORY] = AT(struct ctl_request, "UnregisterMemory", t_region, region_id),
	[CTL_TORPOR] = AT(struct ctl_request, "Torpor", t_torpor, torpor),
};
const struct wire_type ctl_request_type =
	COMPOSED(WIRE_ENUM, sizeof(struct ctl_request), request_members);

/* ---- answers ---- */

static const struct wire_member slot_members[] = { SEEN("slot", t_u32) };
static const struct wire_type t_slot = COMPOSED(WIRE_STRUCT, 0, slot_members);

static const struct wire_member balloon_stats_members[] = {
	SEEN_OPT("swap_in", t_u64),
	SEEN_OPT("swap_out", t_u64),
	SEEN_OPT("major_faults", t_u64),
	SEEN_OPT("minor_faults", t_u64),
	SEEN_OPT("free_memory", t_u64),
	SEEN_OPT("total_memory", t_u64),
	SEEN_OPT("available_memory", t_u64),
	SEEN_OPT("disk_caches", t_u64),
	SEEN_OPT("hugetlb_allocations", t_u64),
	SEEN_OPT("hugetlb_failures", t_u64),
	SEEN_OPT("shared_memory", t_u64),
	SEEN_OPT("unevictable_memory", t_u64),
};
static const struct wire_type t_balloon_stats = COMPOSED(WIRE_STRUCT, 0, balloon_stats_members);
static const struct wire_member stats_answer_members[] = {
	SEEN("stats", t_balloon_stats),
	SEEN("balloon_actual", t_u64),
};
static const struct wire_type t_stats_answer = COMPOSED(WIRE_STRUCT, 0, stats_answer_members);

static const struct wire_type t_u64_pair = { .kind = WIRE_ARRAY, .max = 2, .of = &t_u64 };
static const struct wire_member bucket_members[] = {
	SEEN("age", t_u64), SEEN("bytes", t_u64_pair), /* anonymous, file backed */
};
static const struct wire_type t_bucket = COMPOSED(WIRE_STRUCT, 0, bucket_members);
static const struct wire_type t_buckets = {
	.kind = WIRE_LIST,
	.max = CTL_WS_BINS_MAX,
	.of = &t_bucket,
};
static const struct wire_member ws_members[] = { SEEN("ws", t_buckets) };
static const struct wire_type t_ws = COMPOSED(WIRE_STRUCT, 0, ws_members);
static const struct wire_member ws_answer_members[] = {
	SEEN("ws", t_ws),
	SEEN("balloon_actual", t_u64),
};
static const struct wire_type t_ws_answer = COMPOSED(WIRE_STRUCT, 0, ws_answer_members);

static const struct wire_member bus_members[] = { SEEN("bus", t_u8) };
static const struct wire_type t_bus = COMPOSED(WIRE_STRUCT, 0, bus_members);

static const struct wire_member usb_device_members[] = {
	SEEN("port", t_u8),
	SEEN("vendor_id", t_u16),
	SEEN("product_id", t_u16),
};
static const struct wire_type t_usb_device = COMPOSED(WIRE_STRUCT, 0, usb_device_members);
static const struct wire_type t_usb_devices = {
	.kind = WIRE_ARRAY,
	.max = CTL_USB_PORTS,
	.of = &t_usb_device,
};
static const struct wire_member usb_answer_members[] = {
	SEEN("Ok", t_usb_port),         UNIT("NoAvailablePort"),
	UNIT("NoSuchDevice"),           UNIT("NoSuchPort"),
	UNIT("FailedToOpenDevice"),     SEEN("Devices", t_usb_devices),
	UNIT("FailedToInitHostDevice"),
};
static const struct wire_type t_usb_answer = COMPOSED(WIRE_ENUM, 0, usb_answer_members);

static const struct wire_type t_display_map = { .kind = WIRE_MAP, .of = &t_display };
static const struct wire_member display_list_members[] = { SEEN("displays", t_display_map) };
static const struct wire_type t_display_list = COMPOSED(WIRE_STRUCT, 0, display_list_members);
static const struct wire_member too_many_members[] = {
	SEEN("allowed", t_u64),
	SEEN("requested", t_u64),
};
static const struct wire_type t_too_many = COMPOSED(WIRE_STRUCT, 0, too_many_members);
static const struct wire_member no_display_members[] = { SEEN("display_id", t_u32) };
static const struct wire_type t_no_display = COMPOSED(WIRE_STRUCT, 0, no_display_members);
static const struct wire_member gpu_answer_members[] = {
	UNIT("DisplaysUpdated"),
	SEEN("DisplayList", t_display_list),
	SEEN("TooManyDisplays", t_too_many),
	SEEN("NoSuchDisplay", t_no_display),
	UNIT("DisplayMouseModeSet"),
	SEEN("ErrString", t_text),
};
static const struct wire_type t_gpu_answer = COMPOSED(WIRE_ENUM, 0, gpu_answer_members);

static const struct wire_member bat_answer_members[] = {
	UNIT("Ok"),
	UNIT("NoBatDevice"),
	UNIT("NoSuchHealth"),
	UNIT("NoSuchProperty"),
	UNIT("NoSuchStatus"),
	UNIT("NoSuchBatType"),
	UNIT("StringParseIntErr"),
	UNIT("StringParseBoolErr"),
};
static const struct wire_type t_bat_answer = COMPOSED(WIRE_ENUM, 0, bat_answer_members);

static const struct wire_member swap_state_members[] = {
	UNIT("Ready"),  UNIT("Pending"),          UNIT("TrimInProgress"), UNIT("SwapOutInProgress"),
	UNIT("Active"), UNIT("SwapInInProgress"), UNIT("Failed"),
};
static const struct wire_type t_swap_state = COMPOSED(WIRE_ENUM, 0, swap_state_members);
static const struct wire_member swap_metrics_members[] = {
	SEEN("resident_pages", t_u64),
	SEEN("copied_from_file_pages", t_u64),
	SEEN("copied_from_staging_pages", t_u64),
	SEEN("zeroed_pages", t_u64),
	SEEN("redundant_pages", t_u64),
	SEEN("staging_pages", t_u64),
	SEEN("swap_pages", t_u64),
};
static const struct wire_type t_swap_metrics = COMPOSED(WIRE_STRUCT, 0, swap_metrics_members);
static const struct wire_member transition_members[] = {
	SEEN("pages", t_u64),
	SEEN("time_ms", t_u64),
};
static const struct wire_type t_transition = COMPOSED(WIRE_STRUCT, 0, transition_members);
static const struct wire_member swap_answer_members[] = {
	SEEN("state", t_swap_state),
	SEEN("metrics", t_swap_metrics),
	SEEN("state_transition", t_transition),
};
static const struct wire_type t_swap_answer = COMPOSED(WIRE_STRUCT, 0, swap_answer_members);

static const struct wire_member devices_members[] = { UNIT("Sleep"), UNIT("Wake") };
static const struct wire_type t_devices = COMPOSED(WIRE_ENUM, 0, devices_members);

static const struct wire_type t_id_pair = { .kind = WIRE_ARRAY, .max = 2, .of = &t_u32 };
static const struct wire_type t_pid_tid_map = { .kind = WIRE_MAP, .of = &t_id_pair };
static const struct wire_member pid_tid_members[] = { SEEN("pid_tid_map", t_pid_tid_map) };
static const struct wire_type t_pid_tid = COMPOSED(WIRE_STRUCT, 0, pid_tid_members);

static const struct wire_member hypervisor_members[] = { UNIT("Kvm") };
static const struct wire_type t_hypervisor = COMPOSED(WIRE_ENUM, 0, hypervisor_members);
static const struct wire_member descriptor_members[] = {
	SEEN("hypervisor", t_hypervisor),
	SEEN("vm_fd", t_fd),
};
static const struct wire_type t_descriptor = COMPOSED(WIRE_STRUCT, 0, descriptor_members);

static const struct wire_member restore_members[] = {
	SEEN("mode", t_text),        SEEN("state", t_text),       SEEN("resident", t_u64),
	SEEN("missing", t_u64),      SEEN("faults", t_u64),       SEEN("fault_p50_us", t_u64),
	SEEN("fault_p99_us", t_u64), SEEN("fault_max_us", t_u64), SEEN("demanded", t_u64),
	SEEN("known", t_u64),        SEEN("first", t_u64),        SEEN_OPT("error", t_text),
};
static const struct wire_type t_restore = COMPOSED(WIRE_STRUCT, 0, restore_members);
static const struct wire_member status_members[] = {
	SEEN("name", t_text),         SEEN("uuid", t_text),
	SEEN("family", t_text),       SEEN("state", t_text),
	SEEN("taking", t_bool),       SEEN("resets", t_u64),
	SEEN("suspended_ns", t_u64),  SEEN("mem_bytes", t_u64),
	SEEN("mem_allocated", t_u64), SEEN("cpus", t_u32),
	SEEN("pid", t_u32),           SEEN("store", t_text),
	SEEN_OPT("s2idle", t_text),   SEEN_OPT("restore", t_restore),
};
static const struct wire_type t_status = COMPOSED(WIRE_STRUCT, 0, status_members);
static const struct wire_type t_rounds = { .kind = WIRE_LIST,
					   .max = SNAP_ROUNDS_MAX,
					   .of = &t_u64 };
static const struct wire_member pause_members[] = {
	SEEN("kick_us", t_u64),  SEEN("park_us", t_u64), SEEN("state_us", t_u64),
	SEEN("dirty_us", t_u64), SEEN("copy_us", t_u64), SEEN("resume_us", t_u64),
	SEEN("pages", t_u64),
};
static const struct wire_type t_pause = COMPOSED(WIRE_STRUCT, 0, pause_members);
static const struct wire_member take_answer_members[] = {
	SEEN("ref", t_text),         SEEN("name", t_text),
	SEEN("number", t_u64),       SEEN("tag", t_text),
	SEEN("frozen_at_ns", t_u64), SEEN("pause_us", t_u64),
	SEEN("elapsed_us", t_u64),   SEEN("pages_stored", t_u64),
	SEEN("bytes_stored", t_u64), SEEN("disk_blocks", t_u64),
	SEEN("incremental", t_bool), SEEN("rounds", t_rounds),
	SEEN("pause", t_pause),      SEEN_OPT("pause_bound_missed", t_text),
};
static const struct wire_type t_take_answer = COMPOSED(WIRE_STRUCT, 0, take_answer_members);
static const struct wire_member take_status_members[] = {
	SEEN("taking", t_bool),
	SEEN_OPT("step", t_text),
	SEEN_OPT("done", t_u64),
	SEEN_OPT("total", t_u64),
};
static const struct wire_type t_take_status = COMPOSED(WIRE_STRUCT, 0, take_status_members);
static const struct wire_member checkpoint_answer_members[] = {
	SEEN("every", t_text),
	SEEN("keep", t_text),
	SEEN("taking", t_bool),
	SEEN("taken", t_u64),
	SEEN("failed", t_u64),
	SEEN_OPT("last_number", t_u64),
	SEEN_OPT("last_frozen_at_ns", t_u64),
	SEEN_OPT("error", t_text),
};
static const struct wire_type t_checkpoint_answer =
	COMPOSED(WIRE_STRUCT, 0, checkpoint_answer_members);
static const struct wire_member rewound_members[] = {
	SEEN("ref", t_text),       SEEN("name", t_text),         SEEN("number", t_u64),
	SEEN("safety", t_text),    SEEN("safety_number", t_u64), SEEN("pages_written", t_u64),
	SEEN("stopped_us", t_u64), SEEN("elapsed_us", t_u64),
};
static const struct wire_type t_rewound = COMPOSED(WIRE_STRUCT, 0, rewound_members);
static const struct wire_member job_members[] = {
	SEEN("id", t_u64),
	SEEN("kind", t_text),
	SEEN("state", t_text),
	SEEN("begun_at_ns", t_u64),
	SEEN_OPT("step", t_text),
	SEEN_OPT("done", t_u64),
	SEEN_OPT("total", t_u64),
	SEEN_OPT("elapsed_us", t_u64),
	SEEN_OPT("error", t_text),
	SEEN_OPT("take", t_take_answer),
	SEEN_OPT("rewind", t_rewound),
};
static const struct wire_type t_job = COMPOSED(WIRE_STRUCT, 0, job_members);
static const struct wire_type t_jobs = { .kind = WIRE_LIST, .max = UINT16_MAX, .of = &t_job };
static const struct wire_member swap_pages_members[] = {
	SEEN("resident", t_u64),   SEEN("staged", t_u64),       SEEN("swapped", t_u64),
	SEEN("from_store", t_u64), SEEN("from_staging", t_u64), SEEN("zeroed", t_u64),
	SEEN("redundant", t_u64),  SEEN("trimmed_zero", t_u64), SEEN("trimmed_same", t_u64),
};
static const struct wire_type t_swap_pages = COMPOSED(WIRE_STRUCT, 0, swap_pages_members);
static const struct wire_member swap_bytes_members[] = {
	SEEN("memory", t_u64),
	SEEN("before", t_u64),
	SEEN("after", t_u64),
};
static const struct wire_type t_swap_bytes = COMPOSED(WIRE_STRUCT, 0, swap_bytes_members);
static const struct wire_member swap_faults_members[] = {
	SEEN("count", t_u64),
	SEEN("p50_us", t_u64),
	SEEN("p99_us", t_u64),
	SEEN("max_us", t_u64),
};
static const struct wire_type t_swap_faults = COMPOSED(WIRE_STRUCT, 0, swap_faults_members);
static const struct wire_member swap_told_members[] = {
	SEEN("state", t_swap_state),      SEEN("pages", t_swap_pages),
	SEEN("bytes", t_swap_bytes),      SEEN("faults", t_swap_faults),
	SEEN("transition", t_transition), SEEN_OPT("error", t_text),
};
static const struct wire_type t_swap_told = COMPOSED(WIRE_STRUCT, 0, swap_told_members);
static const struct wire_member added_members[] = {
	SEEN("id", t_text),
	SEEN("slot", t_u32),
	SEEN("bus", t_u8),
};
static const struct wire_type t_added = COMPOSED(WIRE_STRUCT, 0, added_members);
static const struct wire_member torpor_answer_members[] = {
	SEEN("Status", t_status),
	SEEN("Take", t_take_answer),
	SEEN("TakeStatus", t_take_status),
	SEEN("Checkpoint", t_checkpoint_answer),
	SEEN("Rewind", t_rewound),
	SEEN("Job", t_job),
	SEEN("Jobs", t_jobs),
	SEEN("SwapStatus", t_swap_told),
	SEEN("DeviceAdded", t_added),
};
static const struct wire_type t_torpor_answer = COMPOSED(WIRE_ENUM, 0, torpor_answer_members);

static const struct wire_member answer_members[] = {
	UNIT("Ok"),
	SEEN("Err", t_int),
	SEEN("ErrString", t_text),
	SEEN("RegisterMemory", t_slot),
	SEEN("RegisterMemory2", t_region),
	SEEN("BalloonStats", t_stats_answer),
	SEEN("BalloonWS", t_ws_answer),
	SEEN("PciHotPlugResponse", t_bus),
	SEEN("UsbResponse", t_usb_answer),
	SEEN("GpuResponse", t_gpu_answer),
	SEEN("BatResponse", t_bat_answer),
	SEEN("SwapStatus", t_swap_answer),
	SEEN("DevicesState", t_devices),
	SEEN("VcpuPidTidResponse", t_pid_tid),
	SEEN("VmDescriptor", t_descriptor),
	SEEN("Torpor", t_torpor_answer),
};
const struct wire_type ctl_answer_type = COMPOSED(WIRE_ENUM, 0, answer_members);

/* ---- events ---- */

static const struct wire_member state_event_members[] = {
	SEEN("from", t_text),
	SEEN("to", t_text),
	SEEN("time_ns", t_u64),
};
static const struct wire_type t_state_event = COMPOSED(WIRE_STRUCT, 0, state_event_members);
static const struct wire_member begun_members[] = {
	SEEN("name", t_text),
	SEEN("tag", t_text),
	SEEN("time_ns", t_u64),
};
static const struct wire_type t_begun = COMPOSED(WIRE_STRUCT, 0, begun_members);
static const struct wire_member failed_members[] = {
	SEEN("name", t_text),
	SEEN("tag", t_text),
	SEEN("error", t_text),
	SEEN("time_ns", t_u64),
};
static const struct wire_type t_failed = COMPOSED(WIRE_STRUCT, 0, failed_members);
static const struct wire_member swap_event_members[] = {
	SEEN("state", t_swap_state),
	SEEN("time_ns", t_u64),
	SEEN_OPT("error", t_text),
};
static const struct wire_type t_swap_event = COMPOSED(WIRE_STRUCT, 0, swap_event_members);
static const struct wire_member panic_members[] = { SEEN("time_ns", t_u64) };
static const struct wire_type t_panic = COMPOSED(WIRE_STRUCT, 0, panic_members);
static const struct wire_member needs_reset_members[] = {
	SEEN("device", t_text),
	SEEN("error", t_text),
	SEEN("time_ns", t_u64),
};
static const struct wire_type t_needs_reset = COMPOSED(WIRE_STRUCT, 0, needs_reset_members);
static const struct wire_member resize_event_members[] = { SEEN("balloon_actual", t_u64) };
static const struct wire_type t_resize_event = COMPOSED(WIRE_STRUCT, 0, resize_event_members);

static const struct wire_member rewind_failed_members[] = {
	SEEN("name", t_text),
	SEEN("ref", t_text),
	SEEN("error", t_text),
	SEEN("time_ns", t_u64),
};
static const struct wire_type t_rewind_failed = COMPOSED(WIRE_STRUCT, 0, rewind_failed_members);

static const struct wire_member event_members[CTL_EVENT__COUNT] = {
	[CTL_EVENT_BALLOON_WS] = SEEN("VirtioBalloonWsReport", t_ws_answer),
	[CTL_EVENT_BALLOON_RESIZE] = SEEN("VirtioBalloonResize", t_resize_event),
	[CTL_EVENT_BALLOON_OOM] = SEEN("VirtioBalloonOOMDeflation", t_resize_event),
	[CTL_EVENT_STATE] = SEEN("StateChange", t_state_event),
	[CTL_EVENT_SNAPSHOT_BEGUN] = SEEN("SnapshotBegun", t_begun),
	[CTL_EVENT_SNAPSHOT_PUBLISHED] = SEEN("SnapshotPublished", t_take_answer),
	[CTL_EVENT_SNAPSHOT_FAILED] = SEEN("SnapshotFailed", t_failed),
	[CTL_EVENT_SWAP_STATE] = SEEN("SwapState", t_swap_event),
	[CTL_EVENT_GUEST_PANIC] = SEEN("GuestPanic", t_panic),
	[CTL_EVENT_NEEDS_RESET] = SEEN("DeviceNeedsReset", t_needs_reset),
	[CTL_EVENT_REWOUND] = SEEN("SnapshotRewound", t_rewound),
	[CTL_EVENT_REWIND_FAILED] = SEEN("SnapshotRewindFailed", t_rewind_failed),
};
const struct wire_type ctl_event_type = COMPOSED(WIRE_ENUM, 0, event_members);

json_t *ctl_schema(void)
{
	return json_pack("{s:s,s:s,s:{s:o,s:o,s:o}}", "$schema",
			 "https://json-schema.org/draft/2020-12/schema", "title",
			 "torpor control protocol: one packet", "$defs", "Request",
			 wire_schema(&ctl_request_type), "Answer", wire_schema(&ctl_answer_type),
			 "Event", wire_schema(&ctl_event_type));
}
