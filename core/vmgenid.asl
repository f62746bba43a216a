/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SSDT of the VM generation id (devices/vmgenid.c): where its 16 bytes are, and the event that tells
 * of a new one. The compatible ids are those that Windows and Linux look for.
 */
DefinitionBlock ("vmgenid.aml", "SSDT", 2, "TORPOR", "TORPVGEN", 0x00000001)
{
	Scope (\_SB)
	{
		Device (VGEN)
		{
			Name (_HID, "TORP0001")
			Name (_CID, Package (0x03) { "VM_Gen_Counter", "VMGENCTR", "VM_GEN_COUNTER" })
			Name (_DDN, "VM_Gen_Counter")
			/* ACPI_VMGENID_GPA, low and high half */
			Name (ADDR, Package (0x02) { 0x000EF000, Zero })
		}
	}

	Scope (\_GPE)
	{
		Method (_E00, 0, NotSerialized)
		{
			Notify (\_SB.VGEN, 0x80)
		}
	}
}
